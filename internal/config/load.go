package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// MaxFile is the largest configuration file that is read, in bytes.
const MaxFile = 1 << 20

// Options say where settings come from.
type Options struct {
	User    string                      // path of config.toml; "" for none
	Project string                      // path of mvm.toml; "" for none
	Env     func(string) (string, bool) // nil for none
	// Check judges a value by the vocabulary; its error becomes a config.invalid that says
	// where the value stands. nil accepts everything.
	Check func(name, text string) error
	// Nearest returns the candidate that was probably meant, or "". nil suggests nothing.
	Nearest func(name string, candidates []string) string
}

// Load reads the files (absent ones are fine) and the environment. Its errors are *Error.
func Load(o Options) (Config, error) {
	if o.Check == nil {
		o.Check = func(string, string) error { return nil }
	}
	if o.Nearest == nil {
		o.Nearest = func(string, []string) string { return "" }
	}
	var c Config
	for _, f := range []struct {
		path   string
		source Source
	}{{o.User, SourceUser}, {o.Project, SourceProject}} {
		data, err := readFile(f.path)
		if err != nil {
			return Config{}, err
		}
		if c, err = parse(c, f.path, data, f.source, o); err != nil {
			return Config{}, err
		}
	}
	if o.Env == nil {
		return c, nil
	}
	for _, k := range Keys() {
		text, set := o.Env(k.Env)
		if !set || text == "" {
			continue // an empty variable means unset, as in most programs
		}
		if err := o.Check(k.Name, text); err != nil {
			return Config{}, invalid(k.Env, err, "correct or unset "+k.Env)
		}
		c = c.With(k.Name, Value{Text: text, Source: SourceEnv, Where: k.Env})
	}
	return c, nil
}

// readFile returns the file's content, nothing for an absent one.
func readFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	// O_NONBLOCK: opening a FIFO that nobody writes must not hang.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, unreadable(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{Code: "input.not_regular", Where: path, Message: "this is not a regular file", Remedy: "remove it, or put a TOML file in its place"}
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if len(data) > MaxFile {
		return nil, &Error{Code: "config.invalid", Where: path, Message: "the file is larger than 1 MiB", Remedy: "shorten it"}
	}
	return data, nil
}

func unreadable(path string, err error) *Error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return &Error{Code: "config.unreadable", Where: path, Message: fmt.Sprintf("reading the file: %v", err), Remedy: "make it readable, or remove it", Err: err}
}

func invalid(where string, err error, remedy string) *Error {
	return &Error{Code: "config.invalid", Where: where, Message: err.Error(), Remedy: remedy, Err: err}
}
