package cli

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// projectPath is where the project's file is looked for.
func (a *app) projectPath() string {
	if a.io.Dir != "" {
		return filepath.Join(a.io.Dir, projectFile)
	}
	return projectFile
}

// projectDir is the folder of the project, absolute.
func (a *app) projectDir() (string, error) {
	if a.io.Dir != "" {
		return filepath.Abs(a.io.Dir)
	}
	return os.Getwd()
}

// fromProject lets mvm.toml say what the command line leaves out: an `up` without an image
// means the project's machine. It reports whether it does.
func (a *app) fromProject(o *upOptions) (bool, error) {
	if o.source != "" || o.from.given() {
		return false, nil
	}
	p, err := config.LoadProject(a.projectPath())
	if err != nil {
		return false, err
	}
	if len(p.Sources()) == 0 {
		return false, nil
	}
	dir, err := a.projectDir()
	if err != nil {
		return false, machine.Errorf("env.path", "change to a folder that exists", "finding the working directory: %w", err)
	}
	below := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	o.source = p.Image
	o.from = source{flake: p.Flake, profile: p.Profile, dockerfile: below(p.Dockerfile), rootfs: below(p.Rootfs)}
	if o.name == "" {
		if o.name = p.Name; o.name == "" {
			o.name = nameOfFolder(dir)
		}
		if err := machine.CheckName(o.name); err != nil {
			return false, err
		}
	}
	if len(o.command) == 0 && o.init == "" {
		o.command, o.init = p.Command, p.Init
	}
	if o.init == "" {
		o.workdir, o.user = orElse(o.workdir, p.Workdir), orElse(o.user, p.User)
	}
	o.publish, o.volumes = append(slices.Clone(p.Ports), o.publish...), append(slices.Clone(p.Volumes), o.volumes...)
	o.sealed = o.sealed || p.Sealed && !o.dev
	var env, labels []string
	for _, k := range slices.Sorted(maps.Keys(p.Env)) {
		env = append(env, k+"="+p.Env[k])
	}
	for _, k := range slices.Sorted(maps.Keys(p.Labels)) {
		labels = append(labels, k+"="+p.Labels[k])
	}
	files := make([]string, 0, len(p.EnvFile)+len(o.env.files))
	for _, f := range p.EnvFile {
		files = append(files, below(f))
	}
	o.env = envFlags{entries: append(env, o.env.entries...), files: append(files, o.env.files...)}
	o.labels = append(labels, o.labels...)
	o.services, o.checks, err = servicesOf(p)
	return true, err
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// nameOfFolder makes a machine's name from a folder's, as close as can be.
func nameOfFolder(dir string) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, filepath.Base(dir)), "-")
	return name[:min(len(name), machine.MaxName)]
}

// servicesOf turns the file's services and checks into the machine's.
func servicesOf(p config.Project) ([]machine.Service, []machine.Check, error) {
	var services []machine.Service
	for _, name := range slices.Sorted(maps.Keys(p.Services)) {
		s := p.Services[name]
		services = append(services, machine.Service{
			Name: name, Command: s.Command, PreStart: s.PreStart, Env: s.Env, Dir: s.Workdir, User: s.User, LogFile: s.LogFile, Restart: s.Restart,
		})
	}
	var checks []machine.Check
	for _, name := range slices.Sorted(maps.Keys(p.Health)) {
		h := p.Health[name]
		c := machine.Check{Name: name, Command: h.Command, Service: h.Service, Retries: h.Retries}
		for _, d := range []struct {
			text string
			to   *int64
		}{{h.Interval, (*int64)(&c.Interval)}, {h.Timeout, (*int64)(&c.Timeout)}, {h.Grace, (*int64)(&c.Grace)}} {
			if d.text == "" {
				continue
			}
			v, err := parseDuration(d.text)
			if err != nil {
				return nil, nil, machine.Usagef("config.invalid", "write a number with a unit, for example \"5s\"", "%s: health.%s: %w", p.Path, name, err)
			}
			*d.to = int64(v)
		}
		checks = append(checks, c)
	}
	return services, checks, machine.CheckServices(services, checks)
}
