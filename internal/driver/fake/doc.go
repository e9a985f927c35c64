// Package fake is a complete driver without a VMM: it runs the real guest agent as a child
// process over a socket pair, in milliseconds and without root, a kernel or a hypervisor. The
// whole of mvmctl can be used and tested with it.
//
// It isolates nothing and is never chosen by itself. The supervisor and the engine call it
// through package driver; cmd/mvmctl puts it into the binary.
package fake
