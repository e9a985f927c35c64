// Package agent is the guest's end of the channel: it authenticates the host and serves its
// requests inside the microVM. It runs commands and the console, the machine's main program,
// copies files, reports differences to the image, forwards to ports, streams logs and events,
// and ends the machine when asked. It enforces the machine's access policy itself.
//
// It does not bring the guest up (guestinit), does not keep services running or check them
// (service) and starts processes only through guestproc. cmd/mvm-agent calls it.
//
// Three rules hold everywhere. Everything is bounded: connections, handshakes, streams,
// buffers, waits. Every goroutine ends with the stream or program that it serves. A reader
// that stops reading stops its own stream and nothing else: each stream has its own window,
// and the connection's window is the sum of them.
package agent
