// Package initrd builds the initramfs that every microVM boots with: the guest agent as /init,
// the kernel modules that its first stage loads, and the few directories and devices it needs
// before it has mounted anything. Archives are cached by content.
//
// The archive is "newc" cpio (https://docs.kernel.org/driver-api/early-userspace/buffer-format.html),
// uncompressed: expanding is the slow part where the processor is emulated, and the file is
// shared through the page cache anyway. Equal input gives equal bytes.
//
// Layout, agreed with the agent:
//
//	/init                      → mvm/mvm-agent
//	/mvm/mvm-agent             the agent, 0755
//	/mvm/modules/NNN-name.ko   modules, uncompressed; NNN is the load order, from 000
//	/dev /proc /sys /run /newroot
//	/dev/console, /dev/null    before devtmpfs is mounted
//
// The package chooses neither kernel nor modules (package kernel does) and knows nothing of what
// the agent does. The engine calls it.
package initrd
