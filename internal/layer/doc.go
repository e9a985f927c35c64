// Package layer turns what holds a file tree into an ext4 image: the layers of an OCI image
// ([Apply]), one tar file ([FromTar]), a folder of this host ([FromDir]), another ext4 image
// ([FromExt4]). [ToTar] is the way back. All of it streams into a disk.Writer or out of a
// disk.FS: no root, no mount, nothing unpacked on the host, and memory for names and inodes
// only. The same input gives the same bytes.
//
// What the tree is made from is hostile. Nothing in it is ever opened, linked or followed on
// the host; every limit is checked before what it bounds is spent; every refusal has a code of
// docs/errors.md.
//
// It is not a registry client and knows nothing of manifests, names or stores: those who call
// it (build, image) hand in bytes that they have fetched.
//
// Layers are applied from the lowest to the topmost, as the image specification describes it
// (https://github.com/opencontainers/image-spec/blob/main/layer.md), each in one pass; what a
// higher layer replaces or hides leaves its blocks to what comes next. Where the specification
// leaves room:
//
//   - A name is relative to the root, whatever it begins with: "/x", "./x" and "x" are the
//     same. A ".." anywhere in a name is refused; targets of symlinks are free text.
//   - A parent that is a symlink is followed, as Docker and containerd do it: "lib/x" over a
//     lower layer's "lib → usr/lib" is usr/lib/x. It is followed in the image's own tree, of
//     which the root is the end of every "..", and never on the host; at most 40 in a name. A
//     link that leads nowhere, or to what is no directory, is refused. An entry for the
//     directory itself replaces the link. The folder that an opaque marker empties must be one,
//     and not a link to it.
//   - In one layer the later of two entries for a path wins. Whiteouts act on lower layers
//     only, wherever in their layer they stand.
//   - A directory that nobody names is root's, 0755, of the image's time.
//   - Extended attributes that ext4 cannot hold, and those with which overlayfs keeps its
//     books, are dropped and counted.
package layer
