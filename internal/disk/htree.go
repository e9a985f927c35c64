package disk

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
)

// Indexed directories (Documentation/filesystems/ext4, "Hash Tree Directories"): block 0
// has "." and ".." and the root of the index, then come the index nodes if the root is not
// enough, then leaves of plain entries in the order of their names' hashes.
const (
	dxRootAt    = 32 // where the index entries begin in the root
	dxNodeAt    = 8  // and in other nodes
	dxEntry     = 8
	dxTail      = 8
	dxRootLimit = (blockSize - dxRootAt - dxTail) / dxEntry
	dxNodeLimit = (blockSize - dxNodeAt - dxTail) / dxEntry
)

// dxPointer is an index entry: names from hash on are in or below a block.
type dxPointer struct{ hash, block uint32 }

type hashedName struct {
	name
	hash, minor uint32
}

// indexedDir lays out a directory with an index; nil if there are too many names for one of
// two levels (about 20 million).
func indexedDir(ino, parent uint32, names []name, hashSeed [16]byte, seed uint32) []byte {
	hashed := make([]hashedName, len(names))
	for i, n := range names {
		hash, minor := halfMD4(n.name, hashSeed)
		hashed[i] = hashedName{n, hash, minor}
	}
	slices.SortFunc(hashed, func(a, b hashedName) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.minor, b.minor), strings.Compare(a.name.name, b.name.name))
	})
	leaves, pointers := dxLeaves(hashed, seed)
	nodes := int64(0)
	if len(pointers) > dxRootLimit {
		nodes = ceilDiv(int64(len(pointers)), dxNodeLimit)
	}
	if nodes > dxRootLimit {
		return nil
	}
	for i := range pointers {
		pointers[i].block += uint32(1 + nodes)
	}
	root := make([]byte, blockSize)
	putDirent(root, name{".", ino, ftDir}, 12)
	putDirent(root[12:], name{"..", parent, ftDir}, blockSize-12)
	root[28] = hashHalfMD4
	root[29] = 8 // bytes of this information
	out := append([]byte(nil), root...)
	if nodes > 0 {
		root[30] = 1 // levels below the root's
		var top []dxPointer
		for part := range slices.Chunk(pointers, dxNodeLimit) {
			node := make([]byte, blockSize)
			binary.LittleEndian.PutUint16(node[4:], blockSize) // one unused entry
			top = append(top, dxPointer{part[0].hash, uint32(len(out) / blockSize)})
			putIndex(node, dxNodeAt, dxNodeLimit, part, seed)
			out = append(out, node...)
		}
		pointers = top
	}
	putIndex(root, dxRootAt, dxRootLimit, pointers, seed)
	copy(out, root)
	return append(out, leaves...)
}

// dxLeaves packs names into blocks, which are counted from 0.
func dxLeaves(names []hashedName, seed uint32) (leaves []byte, pointers []dxPointer) {
	last := uint32(0)
	for len(names) > 0 {
		var block []name
		used := 0
		for _, n := range names {
			if used += direntLen(len(n.name.name)); used > dirBlockRoom {
				break
			}
			block = append(block, n.name)
		}
		hash := names[0].hash
		if len(pointers) > 0 && hash == last {
			hash |= 1 // names with this hash begin in the block before
		}
		pointers = append(pointers, dxPointer{hash, uint32(len(pointers))})
		leaves = append(leaves, dirBlock(block, seed)...)
		last = names[len(block)-1].hash
		names = names[len(block):]
	}
	return leaves, pointers
}

// putIndex writes pointers and checksum into a node whose entries begin at byte at. The
// first entry has no hash; limit and count are in its place.
func putIndex(p []byte, at, limit int, pointers []dxPointer, seed uint32) {
	le := binary.LittleEndian
	for i, ptr := range pointers {
		le.PutUint32(p[at+dxEntry*i:], ptr.hash)
		le.PutUint32(p[at+dxEntry*i+4:], ptr.block)
	}
	le.PutUint16(p[at:], uint16(limit))
	le.PutUint16(p[at+2:], uint16(len(pointers)))
	sum := crcUpdate(seed, p[:at+dxEntry*len(pointers)])
	sum = crcUpdate32(crcUpdate32(sum, 0), 0)
	le.PutUint32(p[blockSize-4:], sum)
}

// hashHalfMD4 is the s_def_hash_version of names hashed by halfMD4.
const hashHalfMD4 = 1

// halfMD4 is the hash of a name, as unsigned bytes (fs/ext4/hash.c).
func halfMD4(name string, hashSeed [16]byte) (hash, minor uint32) {
	var buf [4]uint32
	for i := range buf {
		buf[i] = binary.LittleEndian.Uint32(hashSeed[4*i:])
	}
	for rest := name; ; rest = rest[32:] {
		halfMD4Block(&buf, hashInput(rest))
		if len(rest) <= 32 {
			break
		}
	}
	hash = buf[1] &^ 1
	if hash == 0x7FFFFFFF<<1 { // means the end of a directory
		hash = (0x7FFFFFFF - 1) << 1
	}
	return hash, buf[2]
}

// hashInput packs up to 32 bytes of a name into words and fills up with its length.
func hashInput(s string) (in [8]uint32) {
	pad := uint32(len(s)) & 0xFF
	pad |= pad << 8
	pad |= pad << 16
	s = s[:min(32, len(s))]
	for i := range in {
		in[i] = pad
		for k := 4 * i; k < min(4*i+4, len(s)); k++ {
			in[i] = in[i]<<8 + uint32(s[k])
		}
	}
	return in
}

// halfMD4Block is half_md4_transform of lib/cryptohash.c: three rounds of eight steps.
func halfMD4Block(buf *[4]uint32, in [8]uint32) {
	rounds := [3]struct {
		f     func(x, y, z uint32) uint32
		k     uint32
		order [8]int
		shift [4]int
	}{
		{
			func(x, y, z uint32) uint32 { return z ^ x&(y^z) }, 0,
			[8]int{0, 1, 2, 3, 4, 5, 6, 7},
			[4]int{3, 7, 11, 19},
		},
		{
			func(x, y, z uint32) uint32 { return x&y + (x^y)&z }, 0x5A827999,
			[8]int{1, 3, 5, 7, 0, 2, 4, 6},
			[4]int{3, 5, 9, 13},
		},
		{
			func(x, y, z uint32) uint32 { return x ^ y ^ z }, 0x6ED9EBA1,
			[8]int{3, 7, 2, 6, 1, 5, 0, 4},
			[4]int{3, 9, 11, 15},
		},
	}
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]
	for _, r := range rounds {
		for i, word := range r.order {
			a = bits.RotateLeft32(a+r.f(b, c, d)+in[word]+r.k, r.shift[i%4])
			a, b, c, d = d, a, b, c
		}
	}
	buf[0], buf[1], buf[2], buf[3] = buf[0]+a, buf[1]+b, buf[2]+c, buf[3]+d
}
