// Package lima is the backend for hosts that have no KVM of their own: machines run in a Lima
// virtual machine, under the best backend that there is in it. The driver is the outer half; Host,
// which cmd/mvmctl serves in a session of linuxenv, is the half in the virtual machine.
//
// Each machine has a session of its own: one limactl on the host, one process of ours in the virtual
// machine, which owns the machine's VMM. The console, the guest's channel and the requests to end it
// are streams of that session, so whatever ends the session (the supervisor killed, limactl killed,
// the connection lost, the virtual machine stopped) ends the machine, and nothing is left of it
// but its disk. The guest's channel is authenticated between host and guest; its keys stay on the host.
//
// Kernel, initramfs and image are copied into the virtual machine once by their content. What a
// machine writes is there too, in a folder of its own, until Remove.
//
// It is not an inner backend, and does not choose when it is used.
package lima
