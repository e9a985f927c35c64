package config

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Project is what mvm.toml says of the project's machine, beside the settings: what it is made
// from and what runs in it. Its texts are judged by whoever uses them.
type Project struct {
	Path string            `toml:"-"` // of the file; "" when there is none
	At   map[string]string `toml:"-"` // where its keys stand: "services.web.command" → "mvm.toml:3:1"

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

// Where says where a key stands in the file, for a message about its value.
func (p Project) Where(key string) string {
	if at := p.At[key]; at != "" {
		return at
	}
	return p.Path
}

// LoadProject reads the project's part of mvm.toml; without a file it is empty. Its errors are
// *Error.
func LoadProject(file string) (Project, error) {
	data, err := readFile(file)
	if err != nil || data == nil {
		return Project{}, err
	}
	if line := tooDeep(data); line > 0 {
		return Project{}, &Error{Code: "config.invalid", Where: fmt.Sprintf("%s:%d:1", file, line), Message: "values nest too deep", Remedy: "remove the line"}
	}
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return Project{}, syntaxError(file, err)
	}
	p := Project{Path: file, At: positions(file, data)}
	// The settings stand in the same file and are read by Load.
	for _, k := range Keys() {
		delete(tree, k.Name)
	}
	if m := judge(tree); m != nil {
		return Project{}, m.in(p)
	}
	// Nothing is left that it could refuse.
	if err := toml.Unmarshal(data, &p); err != nil {
		return Project{}, syntaxError(file, err)
	}
	if s := p.Sources(); len(s) > 1 {
		return Project{}, &Error{
			Code: "config.invalid", Where: p.Where(s[1]), Message: "the machine is made from one thing, and there are " + strings.Join(s, " and "),
			Remedy: "keep one of them",
		}
	}
	if err := p.check(); err != nil {
		return Project{}, err
	}
	return p, nil
}

// check refuses values that nobody could use, whatever else is asked for.
func (p Project) check() error {
	if p.Profile != "" && p.Flake == "" {
		return &Error{
			Code: "config.invalid", Where: p.Where("profile"), Message: "profile is the name of a flake's package, and there is no flake",
			Remedy: "write flake = \".\" beside it, or remove the line",
		}
	}
	dirs := map[string]string{"workdir": p.Workdir}
	for name, s := range p.Services {
		dirs["services."+name+".workdir"] = s.Workdir
	}
	for _, key := range slices.Sorted(maps.Keys(dirs)) {
		if dir := dirs[key]; dir != "" && !path.IsAbs(dir) {
			return &Error{
				Code: "config.invalid", Where: p.Where(key), Message: fmt.Sprintf("%s is %.80q, and has to be an absolute path in the guest", short([]string{key}), dir),
				Remedy: fmt.Sprintf("write workdir = %.80q", path.Join("/", dir)),
			}
		}
	}
	return nil
}

func isProjectKey(name string) bool { return slices.Contains(projectKeys(), name) }
