package config

import (
	"fmt"
	"slices"
	"strings"
)

// Source says who set a value. A larger Source wins over a smaller one.
type Source int

// Sources in order of precedence, weakest first.
const (
	SourceDefault Source = iota
	SourceUser           // config.toml
	SourceProject        // mvm.toml
	SourceEnv            // MVM_*
	SourceFlag
)

// String returns the source as `config show` prints it.
func (s Source) String() string {
	return [...]string{"default", "user file", "project file", "environment", "flag"}[s]
}

// Key is one setting.
type Key struct {
	Name    string // as files have it: lower case with underscores
	Env     string // environment variable
	Flag    string // long flag, without dashes
	Default string // as `config show` shows it; what applies is decided where it is used
	Doc     string // one line
}

// Keys returns every setting, in the order in which they are shown.
func Keys() []Key {
	key := func(name, def, doc string) Key {
		return Key{
			Name: name, Env: "MVM_" + strings.ToUpper(name), Flag: strings.ReplaceAll(name, "_", "-"),
			Default: def, Doc: doc,
		}
	}
	return []Key{
		key("cpus", "1", "virtual CPUs of a new machine"),
		key("memory", "512M", "memory of a new machine"),
		key("disk", "8G", "size of a new machine's own disk (sparse)"),
		key("hypervisor", "auto", "backend that must be used"),
		key("kernel", "default", "guest kernel: a path, a release or an id"),
		key("require_isolation", "none", "weakest isolation that is accepted: container, emulated, vm, vm+jail"),
		key("timeout", "2m", "how long a machine may take to become ready"),
		key("progress", "auto", "progress on stderr: auto, plain, none"),
	}
}

// Value is the value of a setting and where it came from.
type Value struct {
	Text   string
	Source Source
	Where  string // "mvm.toml:3:1", "MVM_CPUS", "--cpus"; "" for a default
}

// Config is the settings in force. The zero value has the defaults only. It is never changed;
// With returns another one.
type Config struct {
	values []named
}

type named struct {
	name string
	Value
}

// Value returns the value of a setting. The name must be one of Keys.
func (c Config) Value(name string) Value {
	for _, v := range c.values {
		if v.name == name {
			return v.Value
		}
	}
	for _, k := range Keys() {
		if k.Name == name {
			return Value{Text: k.Default}
		}
	}
	return Value{}
}

// Said returns the text that somebody set, or "" where only the default applies: what nobody
// said must not hide what an image or an earlier start of the machine says.
func (c Config) Said(name string) string {
	if v := c.Value(name); v.Source != SourceDefault {
		return v.Text
	}
	return ""
}

// Only returns c with the values that keep accepts; the others are as nobody had said them.
func (c Config) Only(keep func(name string, v Value) bool) Config {
	return Config{slices.DeleteFunc(slices.Clone(c.values), func(v named) bool { return !keep(v.name, v.Value) })}
}

// With returns c with a value that wins over those of the same or a weaker source.
func (c Config) With(name string, v Value) Config {
	values := slices.Clone(c.values)
	for i := range values {
		if values[i].name == name {
			if values[i].Source <= v.Source {
				values[i].Value = v
			}
			return Config{values}
		}
	}
	return Config{append(values, named{name, v})}
}

// Error is a mistake in a file or a variable.
type Error struct {
	Code    string // "config.invalid", "config.unknown_key", "config.unreadable", "input.not_regular"
	Where   string // "mvm.toml:3:1" or "MVM_CPUS"
	Message string // cause, one line, without Where
	Remedy  string
	Err     error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Where == "" {
		return e.Message
	}
	return fmt.Sprintf("%s: %s", e.Where, e.Message)
}

// Unwrap returns the wrapped cause.
func (e *Error) Unwrap() error { return e.Err }
