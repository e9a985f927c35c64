// Package qemu is the driver for QEMU: hardware virtualisation (KVM, HVF) where a guest was
// seen to boot with it, emulation (TCG) everywhere else.
//
// Everything goes over inherited descriptors: the QMP monitor and the console are socket
// pairs, disks are descriptors that the driver opened and checked, and the agent's channel is
// handed to the running QEMU over QMP. No path exists for which another user could race.
//
// It is not a general QEMU front end: it builds exactly one kind of machine, from a
// machine.Boot, and looks nothing up. cmd/mvmctl makes it; the engine and the supervisor call
// it through package driver. commandLine is a pure function, tested on every OS.
package qemu
