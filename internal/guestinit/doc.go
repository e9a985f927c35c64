// Package guestinit brings a guest up, from the kernel's first process to the moment the
// agent can open its channel, and takes it down again.
//
// Boot runs once, as PID 1 in the initramfs: it mounts what the kernel offers, loads the
// modules that lie beside it, finds the machine's drives by their serial, reads the config
// drive, lays the machine's own writes over the image and makes that the root. What is left
// then is a System. Without a usable config drive there is no System: an agent that does not
// know its host's key must not listen.
//
// EnterInit is the other way in: the agent as the first process of new namespaces, which makes
// their mounts and becomes the image's own init (package guestproc starts it).
//
// It serves no requests (agent), runs no services (service) and starts no process. Only
// cmd/mvm-agent calls it. Everything that a program in the guest can see of it lies in
// agentproto.GuestDir.
//
// The kernel command line may hold these words:
//
//	mvm.probe            print ProbeLine and power off at once: does this host boot a guest?
//	mvm.poweroff=reboot  end the machine by a reset, for a VMM without a power-off (Firecracker)
//	mvm.drives=ROLE:SERIAL,…  drives whose serials the VMM chooses (Firecracker: from the file's inode)
//	mvm.slow             the processor is emulated: deadlines are longer
//
// The initramfs is that of package initrd: /init, /mvm/mvm-agent, /mvm/modules/NNN-name.ko.
package guestinit
