package fake

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// exportDrives lays the machine's drives out as folders below dir: root and config. Devices
// and owners are left out: the guest is an ordinary process.
func exportDrives(b machine.Boot, dir string, fault Fault) error {
	for _, d := range b.Disks {
		switch d.Role {
		case machine.RoleRoot, machine.RoleConfig:
			if err := export(d.Path, filepath.Join(dir, string(d.Role))); err != nil {
				return fmt.Errorf("reading drive %s: %w", d.Role, err)
			}
		}
	}
	for _, name := range []string{"root", "bin", "config"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return fmt.Errorf("making the guest's files: %w", err)
		}
	}
	if path := filepath.Join(dir, "config", "config.json"); fault != FaultNeverAnswer {
		return adjustConfig(path, dir, fault)
	}
	return nil
}

func export(image, dir string) (err error) {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fs, err := disk.Open(f, info.Size())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return fs.Walk(func(e disk.Entry) error { return exportOne(root, fs, e) })
}

func exportOne(root *os.Root, fs *disk.FS, e disk.Entry) error {
	switch e.Type {
	case disk.TypeDir:
		if e.Path == "." {
			return nil
		}
		// The user who runs the fake guest owns it, so it must be able to write everywhere.
		return root.Mkdir(e.Path, os.FileMode(e.Mode&0o777)|0o700)
	case disk.TypeSymlink:
		return root.Symlink(e.Target, e.Path)
	case disk.TypeHardlink:
		return root.Link(e.Target, e.Path)
	case disk.TypeFile:
	default:
		return nil
	}
	in, _, err := fs.Open(e.Path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := root.OpenFile(e.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, os.FileMode(e.Mode&0o777)|0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// adjustConfig marks the guest's processes and, for one fault, gives the guest a key that the
// host does not expect.
func adjustConfig(path, dir string, fault Fault) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the config drive: %w", err)
	}
	var c map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&c); err != nil {
		return fmt.Errorf("reading the config drive: %w", err)
	}
	env, ok := c["env"].(map[string]any)
	if !ok {
		env = map[string]any{}
	}
	env[markVar] = dir
	c["env"] = env
	if fault == FaultWrongKey {
		seed := make([]byte, 32)
		rand.Read(seed) // never fails since Go 1.24
		c["guest_seed"] = seed
	}
	if data, err = json.Marshal(c); err != nil {
		return fmt.Errorf("encoding the config drive: %w", err)
	}
	return os.WriteFile(path, data, 0o600)
}
