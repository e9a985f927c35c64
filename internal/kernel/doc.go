// Package kernel finds, unpacks, verifies and lists guest kernels.
//
// A kernel is a boot image plus the few modules that a microVM needs. It comes from a file, from
// the host's /boot, or from the distribution's own kernel package, which is downloaded without
// being installed, or is built here from the distribution's kernel source; whatever the source, it is checked, unpacked and kept in a content-addressed
// cache (cacheDir/kernels/<id>), and everybody else only sees that cache.
//
// Kernel files are taken for hostile: sizes are bounded, nothing is trusted before it is checked,
// and a bad file is the error "boot.kernel_invalid", never a panic or a hung VMM.
//
// A build is make with a clean environment in a folder of the cache: the same source, options
// (guest/kernel) and compiler give the same bytes.
//
// The package does not boot anything and does not build the initramfs (package initrd does). The
// engine and the kernel commands call it.
package kernel
