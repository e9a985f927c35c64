package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Project is what mvm.toml says of the project's machine, beside the settings: what it is made
// from and what runs in it. Its texts are judged by whoever uses them.
type Project struct {
	Path string `toml:"-"` // of the file; "" when there is none

	Name       string `toml:"name"`
	Image      string `toml:"image"`      // one of these four
	Flake      string `toml:"flake"`      //
	Dockerfile string `toml:"dockerfile"` // a folder with a Dockerfile, or the file
	Rootfs     string `toml:"rootfs"`     // a folder, a tar or an ext4 image
	Profile    string `toml:"profile"`    // of the flake

	Command []string          `toml:"command"`
	Workdir string            `toml:"workdir"`
	User    string            `toml:"user"`
	Init    string            `toml:"init"`
	Env     map[string]string `toml:"env"`
	EnvFile []string          `toml:"env_file"`
	Ports   []string          `toml:"ports"`
	Volumes []string          `toml:"volumes"`
	Labels  map[string]string `toml:"labels"`
	Sealed  bool              `toml:"sealed"`

	Services map[string]Service `toml:"services"`
	Health   map[string]Health  `toml:"health"`
}

// Service is a program that is kept running.
type Service struct {
	Command  []string          `toml:"command"`
	PreStart []string          `toml:"pre_start"`
	Env      map[string]string `toml:"env"`
	Workdir  string            `toml:"workdir"`
	User     string            `toml:"user"`
	LogFile  string            `toml:"log_file"`
	Restart  string            `toml:"restart"`
}

// Health is a health check. Durations are texts such as "5s".
type Health struct {
	Command  []string `toml:"command"`
	Service  string   `toml:"service"`
	Interval string   `toml:"interval"`
	Timeout  string   `toml:"timeout"`
	Grace    string   `toml:"grace"`
	Retries  int      `toml:"retries"`
}

// Sources returns how many ways of making the machine the file names.
func (p Project) Sources() []string {
	var out []string
	for _, s := range []struct{ key, value string }{{"image", p.Image}, {"flake", p.Flake}, {"dockerfile", p.Dockerfile}, {"rootfs", p.Rootfs}} {
		if s.value != "" {
			out = append(out, s.key)
		}
	}
	return out
}

// projectKeys are the keys of mvm.toml that are no settings.
func projectKeys() []string {
	return []string{
		"name", "image", "flake", "dockerfile", "rootfs", "profile", "command", "workdir", "user", "init", "env", "env_file",
		"ports", "volumes", "labels", "sealed", "services", "health",
	}
}

// LoadProject reads the project's part of mvm.toml; without a file it is empty. Its errors are
// *Error.
func LoadProject(path string) (Project, error) {
	data, err := readFile(path)
	if err != nil || data == nil {
		return Project{}, err
	}
	if line := tooDeep(data); line > 0 {
		return Project{}, &Error{Code: "config.invalid", Where: fmt.Sprintf("%s:%d:1", path, line), Message: "values nest too deep", Remedy: "remove the line"}
	}
	// The settings stand in the same file and are read by Load.
	file := struct {
		Project
		CPUs       any `toml:"cpus"`
		Memory     any `toml:"memory"`
		Disk       any `toml:"disk"`
		Hypervisor any `toml:"hypervisor"`
		Kernel     any `toml:"kernel"`
		Require    any `toml:"require_isolation"`
		Timeout    any `toml:"timeout"`
		Progress   any `toml:"progress"`
	}{}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		return Project{}, projectError(path, err)
	}
	p := file.Project
	p.Path = path
	if s := p.Sources(); len(s) > 1 {
		return Project{}, &Error{Code: "config.invalid", Where: path, Message: "the machine is made from one thing, and there are " + strings.Join(s, " and "), Remedy: "keep one of them"}
	}
	return p, nil
}

// projectError says where the file is wrong.
func projectError(path string, err error) *Error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		first := unknown.Errors[0]
		line, col := first.Position()
		key := first.Key()
		e := &Error{
			Code: "config.unknown_key", Where: fmt.Sprintf("%s:%d:%d", path, line, col), Err: err,
			Message: fmt.Sprintf("unknown key %q", strings.Join(key, ".")), Remedy: "remove it; docs/mvm-toml.md lists the keys there are",
		}
		return e
	}
	e := syntaxError(path, err)
	if de, ok := errors.AsType[*toml.DecodeError](err); ok {
		if key := de.Key(); len(key) > 0 {
			e.Message = fmt.Sprintf("%s: %s", strings.Join(key, "."), strings.TrimPrefix(de.Error(), "toml: "))
			e.Remedy = "write the value as docs/mvm-toml.md shows it"
		}
	}
	return e
}

func isProjectKey(name string) bool { return slices.Contains(projectKeys(), name) }
