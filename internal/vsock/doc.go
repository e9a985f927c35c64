// Package vsock opens the byte pipes between a host and a guest: AF_VSOCK sockets, a
// virtio-serial port inside the guest, and the unix sockets that stand for guest ports on the
// host (the form Firecracker introduced: "CONNECT <port>\n", answered by "OK <port>\n").
//
// It knows nothing of what flows through them: authentication and messages are agentproto's.
// The drivers and the supervisor call it on the host, the agent in the guest.
package vsock

import "errors"

// ErrUnsupported is in the chain of the error for a pipe that this operating system does not
// have.
var ErrUnsupported = errors.New("not supported by this operating system")

// ErrNotListening is in the chain of a dial error when the guest has nobody on that port
// (yet): the one worth trying again.
var ErrNotListening = errors.New("nothing listens on the guest port")

// ErrHandshake is in the chain of a DialUnix or ServeUnix error when the other side does not
// keep to the CONNECT/OK form.
var ErrHandshake = errors.New("broken CONNECT handshake")

// HostCID is the address of the host, seen from a guest (VMADDR_CID_HOST, vsock(7)).
const HostCID = 2
