package nix

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
	flake "github.com/mvmctl/mvmctl/nix"
)

// Template is a flake to start from.
type Template struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// Templates returns the templates, the plainest first.
func Templates() []Template {
	return []Template{
		{"minimal", "A shell and nothing else"},
		{"http", "A static web site on port 8080"},
		{"postgres", "PostgreSQL with its data on a volume"},
		{"worker", "A background program with a health check"},
		{"python", "A Python web service on port 8080"},
	}
}

// WriteTemplate writes a template into dir, which may exist, and returns the files that it wrote,
// relative to dir. It overwrites nothing: when one of its files is there, it writes none.
func WriteTemplate(name, dir string) ([]string, error) {
	sub, err := template(name)
	if err != nil {
		return nil, err
	}
	files, err := listFiles(sub)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(f))); err == nil {
			return nil, machine.Errorf("template.exists", "choose an empty folder, or move the file away", "%s has a file %s already", dir, f)
		}
	}
	return files, writeFiles(sub, files, dir)
}

// WriteLibrary writes the flake with mkGuest below dir, once for each version of it, and returns
// its folder: for Options.Inputs, so that a flake's input mvm is this mvmctl's and needs no
// network.
func WriteLibrary(dir string) (string, error) { return keep(flake.Files(), dir, "flake-") }

// KeepTemplate writes a template below dir, once for each version of it, and returns its folder,
// which is not for changing.
func KeepTemplate(name, dir string) (string, error) {
	sub, err := template(name)
	if err != nil {
		return "", err
	}
	return keep(sub, dir, "template-"+name+"-")
}

// template returns the files of a template.
func template(name string) (fs.FS, error) {
	var names []string
	for _, t := range Templates() {
		names = append(names, t.Name)
	}
	if !slices.Contains(names, name) {
		return nil, machine.Usagef("template.not_found", "choose one of: "+strings.Join(names, ", "), "there is no template %q", clip(name, 80))
	}
	return fs.Sub(flake.Files(), path.Join("templates", name))
}

// keep writes a tree into a folder that is named after its content, unless that is there.
func keep(tree fs.FS, dir, prefix string) (string, error) {
	files, err := listFiles(tree)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, f := range files {
		data, err := fs.ReadFile(tree, f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s\x00%d\x00%s", f, len(data), data)
	}
	final := filepath.Join(dir, prefix+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Lstat(filepath.Join(final, "flake.nix")); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", writeError(dir, err)
	}
	temp, err := os.MkdirTemp(dir, ".flake-")
	if err != nil {
		return "", writeError(dir, err)
	}
	defer os.RemoveAll(temp)
	if err := writeFiles(tree, files, temp); err != nil {
		return "", err
	}
	// Somebody else may have been first, with the same bytes.
	if err := os.Rename(temp, final); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", writeError(final, err)
	}
	return final, nil
}

func listFiles(tree fs.FS) ([]string, error) {
	var out []string
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, p)
		}
		return err
	})
	return out, err
}

func writeFiles(tree fs.FS, files []string, dir string) error {
	for _, f := range files {
		data, err := fs.ReadFile(tree, f)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(f))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return writeError(to, err)
		}
		if err := writeNew(to, data); err != nil {
			return writeError(to, err)
		}
	}
	return nil
}

// writeNew writes a file that is not there yet, through no link.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func writeError(name string, err error) error {
	return machine.Errorf("template.write", "see that the folder can be written and has space", "writing %s: %w", name, err)
}
