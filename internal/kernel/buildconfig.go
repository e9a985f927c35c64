package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/guest"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// maxNamed bounds how many options one message names.
const maxNamed = 8

// option is one line of a configuration: what was asked of an option, "n" for "is not set".
type option struct{ name, value string }

// line is the option as a .config has it.
func (o option) line() string {
	if o.value == "n" {
		return "# " + o.name + " is not set"
	}
	return o.name + "=" + o.value
}

// askedOptions are the options of a kernel for an architecture, ours first and then the user's
// from the file extra ("": none). Of two lines about one option the later one counts.
func askedOptions(arch, extra string) ([]option, error) {
	var all []option
	for _, name := range []string{"common.config", machineName(arch) + ".config"} {
		raw, err := guest.Kernel().ReadFile(path.Join("kernel", name))
		if err != nil {
			return nil, machine.Usagef("usage.flag", "write --arch amd64 or --arch arm64", "no kernel can be built for %q", arch)
		}
		list, err := parseOptions(string(raw))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, list...)
	}
	if extra != "" {
		raw, err := readFileLimit(extra, maxKernelConfig)
		if err != nil {
			return nil, machine.Errorf("kernel.config", "give a file of CONFIG_ lines with --config", "reading kernel options: %w", err)
		}
		list, err := parseOptions(string(raw))
		if err != nil {
			return nil, machine.Errorf("kernel.config", "write CONFIG_NAME=y, CONFIG_NAME=VALUE or # CONFIG_NAME is not set", "%s: %w", filepath.Base(extra), err)
		}
		all = append(all, list...)
	}
	return lastOfEach(all), nil
}

// machineName is the kernel's own spelling of an architecture.
func machineName(arch string) string {
	if arch == "amd64" {
		return "x86_64"
	}
	return arch
}

// lastOfEach drops what a later line overrules, and sorts: the order of lines must not matter
// to the digest.
func lastOfEach(all []option) []option {
	last := make(map[string]string, len(all))
	for _, o := range all {
		last[o.name] = o.value
	}
	out := make([]option, 0, len(last))
	for name, value := range last {
		out = append(out, option{name, value})
	}
	slices.SortFunc(out, func(a, b option) int { return strings.Compare(a.name, b.name) })
	return out
}

// parseOptions reads a .config strictly: a line that is neither an option nor a remark is an
// error, since it would be ignored without a word otherwise.
func parseOptions(text string) ([]option, error) {
	set, err := regexp.Compile(`^(CONFIG_[A-Za-z0-9_]+)=(y|n|-?[0-9]+|0x[0-9a-fA-F]+|"[^"\\]*")$`)
	if err != nil {
		return nil, err
	}
	unset, err := regexp.Compile(`^# (CONFIG_[A-Za-z0-9_]+) is not set$`)
	if err != nil {
		return nil, err
	}
	var out []option
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if m := unset.FindStringSubmatch(line); m != nil {
			out = append(out, option{m[1], "n"})
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		m := set.FindStringSubmatch(line)
		switch {
		case m != nil:
			out = append(out, option{m[1], m[2]})
		case strings.HasPrefix(line, "CONFIG_") && strings.HasSuffix(line, "=m"):
			return nil, badf("line %d: %q asks for a module, and the kernel has none: write =y", number, line)
		default:
			return nil, badf("line %d: %.80q is no kernel option", number, line)
		}
	}
	return out, nil
}

// optionText is what the kernel's own configuration tool reads, and optionDigest its name.
func optionText(asked []option) string {
	var b strings.Builder
	for _, o := range asked {
		b.WriteString(o.line() + "\n")
	}
	return b.String()
}

func optionDigest(asked []option) string {
	sum := sha256.Sum256([]byte(optionText(asked)))
	return hex.EncodeToString(sum[:])
}

// checkOptions compares what came out of the kernel's configuration tool with what was asked.
// It drops silently what it does not know and what another option excludes.
func checkOptions(configPath string, asked []option) error {
	raw, err := readFileLimit(configPath, maxKernelConfig)
	if err != nil {
		return fmt.Errorf("reading the kernel's configuration: %w", err)
	}
	have := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			have[name] = value
		}
	}
	var wrong []string
	for _, o := range asked {
		got, ok := have[o.name]
		if !ok {
			got = "n"
		}
		if got != o.value {
			wrong = append(wrong, fmt.Sprintf("%s=%s (it is %s)", o.name, o.value, got))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	named := strings.Join(wrong[:min(len(wrong), maxNamed)], ", ")
	if more := len(wrong) - maxNamed; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	return &machine.Error{
		Code:    "kernel.config",
		Message: "this kernel source does not take options that were asked for: " + named,
		Remedy:  "with --config FILE, leave them out or add what they depend on; with --source, take a source of Linux 6.1, which the options are for",
		Detail:  strings.Join(wrong, "\n"),
	}
}
