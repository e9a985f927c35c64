package cli

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
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
	dir, err := filepath.Abs(a.io.Dir)
	if err != nil {
		return "", machine.Errorf("env.path", "change to a folder that exists", "finding the working directory: %w", err)
	}
	return dir, nil
}

// project reads and judges what mvm.toml says of the project's machine.
func (a *app) project() (config.Project, error) {
	p, err := config.LoadProject(a.projectPath())
	if err != nil {
		return p, err
	}
	return p, a.checkProject(p)
}

// fromProject lets mvm.toml say what the command line leaves out: an `up` without an image
// means the project's machine. It reports whether it does.
func (a *app) fromProject(o *upOptions) (bool, error) {
	if o.source != "" || o.from.given() {
		return false, nil
	}
	p, err := a.project()
	if err != nil {
		return false, err
	}
	if len(p.Sources()) == 0 {
		return false, nil
	}
	dir, err := a.projectDir()
	if err != nil {
		return false, err
	}
	below := func(path string) string { return pathBelow(dir, path) }
	o.source = p.Image
	o.from = source{flake: flakeBelow(dir, p.Flake), profile: p.Profile, dockerfile: below(p.Dockerfile), rootfs: below(p.Rootfs), inputs: o.from.inputs, offline: o.from.offline}
	o.name = cmp.Or(o.name, p.Name)
	if len(o.command) == 0 && o.init == "" {
		o.command, o.init = p.Command, p.Init
	}
	if o.init == "" {
		o.workdir, o.user = cmp.Or(o.workdir, p.Workdir), cmp.Or(o.user, p.User)
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
	o.project = p
	o.services, o.checks, err = servicesOf(p)
	return true, err
}

// pathBelow makes a relative path one of a folder.
func pathBelow(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// checkEnvFiles reads the files of variables that the project's file names, for an error that says
// where it names them.
func (a *app) checkEnvFiles(p config.Project) error {
	if len(p.EnvFile) == 0 {
		return nil
	}
	dir, err := a.projectDir()
	if err != nil {
		return err
	}
	for _, f := range p.EnvFile {
		e := envFlags{files: []string{pathBelow(dir, f)}}
		if _, err := e.read(a); err != nil {
			return inProject(p, "env_file", err)
		}
	}
	return nil
}

// placed is an error about what was to be copied into a machine, with the place where the project's
// file names that, if it does.
func (a *app) placed(p config.Project, err error) error {
	cause, ok := errors.AsType[*fs.PathError](err)
	if !ok || machine.CodeOf(err) != "input.volume" {
		return err
	}
	volumes, perr := a.parseVolumes(p.Volumes)
	if perr != nil || !slices.ContainsFunc(volumes, func(v machine.Volume) bool { return v.Kind != machine.VolumeData && v.Source == cause.Path }) {
		return err
	}
	return inProject(p, "volumes", err)
}

// flakeBelow makes a flake reference that is a relative path one of a folder.
func flakeBelow(dir, ref string) string {
	scheme := ""
	if rest, ok := strings.CutPrefix(ref, "path:"); ok {
		scheme, ref = "path:", rest
	}
	end := len(ref)
	if i := strings.IndexAny(ref, "?#"); i >= 0 {
		end = i
	}
	path := ref[:end]
	relative := path == "." || path == ".." || strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../") || path == "" && end < len(ref)
	if relative || scheme != "" && !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return scheme + path + ref[end:]
}

// nameProject gives the project's machine its name: the file's, or one made of the folder's.
func (a *app) nameProject(o *upOptions) error {
	if o.name != "" {
		return machine.CheckName(o.name)
	}
	dir, err := a.projectDir()
	if err != nil {
		return err
	}
	if o.name = machine.NameFrom(filepath.Base(dir)); o.name == "" {
		return machine.Usagef("name.invalid", `write name = "NAME" in `+projectFile+", or add --name NAME",
			"no machine can be named after the folder %s: a name has the letters a to z, digits and '-'", quoted(filepath.Base(dir)))
	}
	return nil
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
			key, text string
			to        *int64
		}{{"interval", h.Interval, (*int64)(&c.Interval)}, {"timeout", h.Timeout, (*int64)(&c.Timeout)}, {"grace", h.Grace, (*int64)(&c.Grace)}} {
			if d.text == "" {
				continue
			}
			v, err := parseDuration(d.text)
			if err != nil {
				return nil, nil, inProject(p, "health."+name+"."+d.key, err)
			}
			*d.to = int64(v)
		}
		checks = append(checks, c)
	}
	return services, checks, machine.CheckServices(services, checks)
}

// inProject is an error about the value of a key of mvm.toml, with its place.
func inProject(p config.Project, key string, err error) error {
	if err == nil {
		return nil
	}
	me := asError(err)
	return &config.Error{Code: me.Code, Where: p.Where(key), Message: key + ": " + err.Error(), Remedy: me.Remedy, Err: err}
}

// checkProject judges by the vocabulary what the project's file says, before it is mixed with
// what the command line says: afterwards nobody knows what stands where.
func (a *app) checkProject(p config.Project) error {
	if p.Name != "" || p.At["name"] != "" {
		if err := machine.CheckName(p.Name); err != nil {
			return inProject(p, "name", err)
		}
	}
	if _, err := parsePorts(p.Ports); err != nil {
		return inProject(p, "ports", err)
	}
	if _, err := a.parseVolumes(p.Volumes); err != nil {
		return inProject(p, "volumes", err)
	}
	for _, k := range slices.Sorted(maps.Keys(p.Env)) {
		e := envFlags{entries: []string{k + "=" + p.Env[k]}}
		if _, err := e.read(a); err != nil {
			return inProject(p, "env."+k, err)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.Labels)) {
		if _, err := parseLabels([]string{k + "=" + p.Labels[k]}); err != nil {
			return inProject(p, "labels."+k, err)
		}
	}
	services, checks, err := servicesOf(p)
	if err == nil {
		return nil
	}
	for _, s := range services {
		if err := machine.CheckServices([]machine.Service{s}, nil); err != nil {
			return inProject(p, "services."+s.Name, err)
		}
	}
	for _, c := range checks {
		if err := machine.CheckServices(services, []machine.Check{c}); err != nil {
			return inProject(p, "health."+c.Name, err)
		}
	}
	return err
}
