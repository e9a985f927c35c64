package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// projectFile is looked for in the working directory only: a file further up may belong to
// somebody else.
const projectFile = "mvm.toml"

// settings reads files and environment.
func (a *app) settings() (config.Config, error) { return a.settingsBut(a.projectPath()) }

// settingsBut is settings with another project file; "" for none.
func (a *app) settingsBut(project string) (config.Config, error) {
	o := config.Options{Env: a.env, Check: checkSetting, Nearest: machine.Nearest, Project: project}
	if a.deps.UserConfig != nil {
		path, err := a.deps.UserConfig()
		if err != nil {
			return config.Config{}, err
		}
		o.User = path
	}
	return config.Load(o)
}

// settingsOf is settings with the command's own flags over them.
func (a *app) settingsOf(cmd *cobra.Command) (config.Config, error) {
	c, err := a.settings()
	if err != nil {
		return c, err
	}
	for _, k := range config.Keys() {
		f := cmd.Flags().Lookup(k.Flag)
		if f == nil || !f.Changed {
			continue
		}
		if f.Value.String() == "" {
			return c, machine.Usagef("usage.flag", "give it a value, or leave it out", "the flag --%s is empty", k.Flag)
		}
		if err := checkSetting(k.Name, f.Value.String()); err != nil {
			return c, err
		}
		c = c.With(k.Name, config.Value{Text: f.Value.String(), Source: config.SourceFlag, Where: "--" + k.Flag})
	}
	return c, nil
}

// isolationLevels are the words of --require-isolation, weakest first.
func isolationLevels() []string { return []string{"none", "emulated", "container", "vm", "vm+jail"} }

// checkSetting judges the text of one setting by the vocabulary.
func checkSetting(name, text string) error {
	var s machine.Spec
	return applySetting(&s, name, text)
}

// applySetting puts one setting into a Spec, or says what is wrong with it.
func applySetting(s *machine.Spec, name, text string) (err error) {
	switch name {
	case "cpus":
		if s.CPUs, err = strconv.Atoi(text); err != nil || s.CPUs < 1 {
			return machine.Usagef("input.range", "use --cpus 1 to --cpus 256", "%s CPUs is not within 1..%d", quoted(text), machine.MaxCPUs)
		}
	case "memory":
		if s.Memory, err = positiveSize(text, machine.MinMemory, machine.MaxMemory, "memory"); err != nil {
			return err
		}
	case "disk":
		if s.Disk, err = positiveSize(text, machine.MinDisk, machine.MaxDisk, "disk"); err != nil {
			return err
		}
	case "timeout":
		if s.Timeout, err = parseDuration(text); err != nil {
			return err
		}
	case "require_isolation":
		if !slices.Contains(isolationLevels(), text) {
			return oneOf("input.isolation", "an isolation level", text, isolationLevels())
		}
		if s.Require = text; text == "none" {
			s.Require = ""
		}
	case "progress":
		modes := []string{string(ui.ProgressAuto), string(ui.ProgressPlain), string(ui.ProgressNone)}
		if !slices.Contains(modes, text) {
			return oneOf("input.progress", "a progress mode", text, modes)
		}
	case "hypervisor":
		if text != "auto" {
			s.Driver = text
		}
	case "kernel":
		if text != "default" {
			s.Kernel = text
		}
	}
	return s.Check()
}

// positiveSize is ParseSize for a setting, where a written zero is a mistake and not "unsaid".
func positiveSize(text string, least, most int64, what string) (int64, error) {
	n, err := machine.ParseSize(text)
	if err == nil && (n < least || n > most) {
		remedy := fmt.Sprintf("use --%s %s or more", what, short(least))
		if n > most {
			remedy = fmt.Sprintf("use --%s %s or less", what, short(most))
		}
		err = machine.Usagef("input.range", remedy, "%s of %s is not within %s..%s", what, machine.FormatSize(n), machine.FormatSize(least), machine.FormatSize(most))
	}
	return n, err
}

// short writes a size as a flag takes it: "96M".
func short(n int64) string {
	return strings.NewReplacer(" MiB", "M", " TiB", "T").Replace(machine.FormatSize(n))
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, machine.Usagef("input.duration", "write a number with a unit, for example 30s or 5m", "%s is not a duration", quoted(text))
	}
	return d, nil
}

func oneOf(code, what, text string, words []string) error {
	remedy := "use " + strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
	if near := machine.Nearest(text, words); near != "" {
		remedy = fmt.Sprintf("did you mean %q? ", near) + remedy
	}
	return machine.Usagef(code, remedy, "%s is not %s", quoted(text), what)
}

// quoted is a short quotation of what a user wrote.
func quoted(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strconv.Quote(s)
}

// specOf returns a Spec with every setting that somebody set.
func specOf(c config.Config) (machine.Spec, error) {
	var s machine.Spec
	for _, k := range config.Keys() {
		if text := c.Said(k.Name); text != "" {
			if err := applySetting(&s, k.Name, text); err != nil {
				return s, err
			}
		}
	}
	if s.Kernel != "" && strings.ContainsRune(s.Kernel, '/') {
		if abs, err := filepath.Abs(s.Kernel); err == nil {
			s.Kernel = abs // a machine started again from elsewhere means the same file
		}
	}
	return s, nil
}

// newProgress returns the progress display that the settings ask for. The caller stops it.
func (a *app) newProgress(c config.Config) *ui.Progress {
	tty := a.terminal(a.io.Err)
	if term, _ := a.env("TERM"); term == "dumb" {
		tty = false
	}
	width, _ := a.sizeOf(a.io.Err)
	p := ui.NewProgress(a.io.Err, ui.ProgressMode(c.Value("progress").Text), tty, width)
	a.mu.Lock()
	a.progress = p.Stop
	a.mu.Unlock()
	return p
}

// parseGrace is parseDuration for --time, which docker's habit writes as bare seconds, and
// where 0 means not to wait at all.
func parseGrace(text string) (time.Duration, error) {
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n <= 86400 {
		return max(time.Duration(n)*time.Second, time.Millisecond), nil
	}
	return parseDuration(text)
}
