// Package agentclient is the host's end of the guest channel: it authenticates a connection
// to an agent and makes the calls of agentproto over it.
//
// It does not find or dial a guest (a driver or the supervisor hands it a net.Conn), prints
// nothing and holds no policy. The supervisor keeps one Connect-ed client warm per machine;
// the engine uses the same Client type over the supervisor's control socket with NewClient.
//
// Everything a guest answers is hostile: lengths are bounded, errors are cleaned of control
// characters, an answer that ends without its end mark is an error and never a success.
// Errors that the guest or the channel cause are *agentproto.Error.
package agentclient
