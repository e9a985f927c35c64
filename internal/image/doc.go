// Package image is the local store of bootable images: what a name means, where its root file
// system is, and what runs in it by default. An image is named by the digest of what it is, and
// never changes; names point at images and can be moved.
//
// It boots nothing, fetches nothing and keeps no machine's own writes: an image is read-only
// and shared, package build fills the store, and the engine boots from it.
package image
