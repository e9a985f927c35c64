package kernel

import (
	"encoding/binary"
	"io"
	"math"
	"slices"
)

// Values from the ELF-64 object file format and the x86-64 psABI.
const (
	elfHeaderSize = 64
	elfPhdrSize   = 56
	elfMaxPhdrs   = 64 // vmlinux has 5
	elfPTLoad     = 1
	elfPTNote     = 4
	elfMachAMD64  = 62
	elfMachARM64  = 183

	maxSegmentMem = 1 << 30 // memory that a kernel may ask for before it runs
	maxNotes      = 1 << 20

	// The note that names the PVH entry point: XEN_ELFNOTE_PHYS32_ENTRY of owner "Xen"
	// (include/xen/interface/elfnote.h).
	xenNotePhys32 = 18
)

type elfSegment struct {
	kind                            uint32
	offset, vaddr, paddr, file, mem uint64
}

// elfInfo is what we need to know of a vmlinux.
type elfInfo struct {
	arch string
	pvh  bool
}

// checkELF makes sure that an ELF file is a 64-bit kernel that a VMM can load without surprise:
// all segments inside the file, none overlapping another in guest memory, none huge.
func checkELF(r io.ReaderAt, size int64) (elfInfo, error) {
	var h [elfHeaderSize]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return elfInfo{}, truncated("the ELF header", err)
	}
	le := binary.LittleEndian
	if string(h[:4]) != "\x7fELF" {
		return elfInfo{}, badf("it is no ELF file")
	}
	if h[4] != 2 || h[5] != 1 {
		return elfInfo{}, badf("it is not a 64-bit little-endian ELF file")
	}
	var info elfInfo
	switch m := le.Uint16(h[18:]); m {
	case elfMachAMD64:
		info.arch = "amd64"
	case elfMachARM64:
		return elfInfo{}, badf("it is an arm64 ELF file; arm64 machines boot from an Image")
	default:
		return elfInfo{}, badf("it is for another processor (ELF machine %d)", m)
	}
	if t := le.Uint16(h[16:]); t != 2 && t != 3 { // ET_EXEC; ET_DYN when relocatable
		return elfInfo{}, badf("it is no executable (ELF type %d)", t)
	}
	segs, err := readSegments(r, size, h)
	if err != nil {
		return elfInfo{}, err
	}
	if err := checkLayout(segs, le.Uint64(h[24:])); err != nil {
		return elfInfo{}, err
	}
	info.pvh, err = hasPVHNote(r, segs)
	return info, err
}

// readSegments reads the program headers and checks each by itself.
func readSegments(r io.ReaderAt, size int64, h [elfHeaderSize]byte) ([]elfSegment, error) {
	le := binary.LittleEndian
	off, entSize, count := le.Uint64(h[32:]), le.Uint16(h[54:]), le.Uint16(h[56:])
	if entSize != elfPhdrSize || count == 0 || count > elfMaxPhdrs {
		return nil, badf("it has %d program headers of %d bytes", count, entSize)
	}
	table := make([]byte, int(count)*elfPhdrSize)
	if off > uint64(size) || uint64(size)-off < uint64(len(table)) {
		return nil, badf("its program headers lie outside the file")
	}
	if _, err := r.ReadAt(table, int64(off)); err != nil {
		return nil, truncated("the program header table", err)
	}
	segs := make([]elfSegment, count)
	for i := range segs {
		p := table[i*elfPhdrSize:]
		s := elfSegment{
			kind: le.Uint32(p), offset: le.Uint64(p[8:]), vaddr: le.Uint64(p[16:]), paddr: le.Uint64(p[24:]),
			file: le.Uint64(p[32:]), mem: le.Uint64(p[40:]),
		}
		if s.kind == elfPTLoad || s.kind == elfPTNote {
			if s.offset > uint64(size) || s.file > uint64(size)-s.offset {
				return nil, badf("segment %d (%d bytes at %d) lies outside the file of %d bytes", i, s.file, s.offset, size)
			}
		}
		segs[i] = s
	}
	return segs, nil
}

// checkLayout looks at the segments in guest memory.
func checkLayout(segs []elfSegment, entry uint64) error {
	var load []elfSegment
	var total uint64
	entryInside := false
	for _, s := range segs {
		if s.kind != elfPTLoad || s.mem == 0 {
			continue
		}
		if s.mem > maxSegmentMem || s.file > s.mem || s.paddr > math.MaxUint32 {
			return badf("a segment wants %d bytes of memory at %#x for %d bytes of file", s.mem, s.paddr, s.file)
		}
		total += s.mem
		if entry-s.paddr < s.mem || entry-s.vaddr < s.mem { // unsigned: false when below
			entryInside = true
		}
		load = append(load, s)
	}
	switch {
	case len(load) == 0:
		return badf("it has nothing to load")
	case total > maxSegmentMem:
		return badf("its segments want %d bytes of memory", total)
	case !entryInside:
		return badf("its entry point %#x lies outside its segments", entry)
	}
	slices.SortFunc(load, func(a, b elfSegment) int {
		if a.paddr < b.paddr {
			return -1
		}
		if a.paddr > b.paddr {
			return 1
		}
		return 0
	})
	for i := 1; i < len(load); i++ {
		if prev := load[i-1]; prev.paddr+prev.mem > load[i].paddr {
			return badf("its segments at %#x and %#x overlap", prev.paddr, load[i].paddr)
		}
	}
	return nil
}

// hasPVHNote looks for the Xen note in the note segments.
func hasPVHNote(r io.ReaderAt, segs []elfSegment) (bool, error) {
	for _, s := range segs {
		if s.kind != elfPTNote || s.file > maxNotes {
			continue
		}
		notes := make([]byte, s.file)
		if _, err := r.ReadAt(notes, int64(s.offset)); err != nil && len(notes) > 0 {
			return false, truncated("a note segment", err)
		}
		if notesHavePVH(notes) {
			return true, nil
		}
	}
	return false, nil
}

// notesHavePVH walks Elf64_Nhdr records: name size, descriptor size, type, then both padded to 4.
func notesHavePVH(notes []byte) bool {
	le := binary.LittleEndian
	for len(notes) >= 12 {
		nameSize, descSize, kind := uint64(le.Uint32(notes)), uint64(le.Uint32(notes[4:])), le.Uint32(notes[8:])
		notes = notes[12:]
		padName, padDesc := (nameSize+3)&^3, (descSize+3)&^3
		if padName+padDesc > uint64(len(notes)) {
			return false
		}
		if kind == xenNotePhys32 && string(notes[:nameSize]) == "Xen\x00" && (descSize == 4 || descSize == 8) {
			return true
		}
		notes = notes[padName+padDesc:]
	}
	return false
}
