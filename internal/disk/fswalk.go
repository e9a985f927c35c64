package disk

// Walk calls fn for each entry, the root (".") first, depth first, the names of a directory
// in byte order. Of a file with several names, all but the first are reported as
// TypeHardlink with the first as Target. An error of fn ends the walk and is returned.
// A directory with two places in the tree, and thus any loop, is ErrCorrupt.
func (f *FS) Walk(fn func(Entry) error) error {
	w := walker{
		f: f, fn: fn, dirs: map[uint32]bool{rootIno: true}, files: map[uint32]string{},
		budget: f.s.blocks * f.s.blockSize,
	}
	n, _, err := f.find("walk", ".")
	if err != nil {
		return err
	}
	e, err := f.entry(".", n)
	if err != nil {
		return err
	}
	if err := fn(e); err != nil {
		return err
	}
	return w.dir(".", n)
}

type walker struct {
	f      *FS
	fn     func(Entry) error
	dirs   map[uint32]bool   // seen
	files  map[uint32]string // first names of files with more than one
	held   int64             // bytes of the directories being walked
	budget int64             // bytes of directories still believable: blocks are not shared
}

func (w *walker) dir(path string, n *diskInode) error {
	w.budget -= n.size
	if w.budget < 0 {
		return corrupt("directories are larger than the image")
	}
	w.held += n.size
	if w.held > maxHeld {
		return unsupported("directories too large and too deep at %q", path)
	}
	defer func() { w.held -= n.size }()
	list, err := w.f.readDir(n)
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := w.entry(join(path, d.name), d.ino); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(path string, ino uint32) error {
	if len(path) > maxPath {
		return unsupported("path of more than %d bytes", maxPath)
	}
	n, err := w.f.inode(ino)
	if err != nil {
		return err
	}
	e, err := w.f.entry(path, n)
	if err != nil {
		return err
	}
	if !n.isDir() {
		if n.links > 1 {
			if first, ok := w.files[ino]; ok {
				e.Type, e.Target, e.Size = TypeHardlink, first, 0
				e.Major, e.Minor = 0, 0
			} else {
				w.files[ino] = path
			}
		}
		return w.fn(e)
	}
	if w.dirs[ino] {
		return corrupt("directory %q has two places", path)
	}
	w.dirs[ino] = true
	if err := w.fn(e); err != nil {
		return err
	}
	return w.dir(path, n)
}
