package vz

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// vfkitArgs is what a command line means to vfkit.
type vfkitArgs struct {
	cpus, memory            int
	kernel, initrd, cmdline string
	api                     string
	disks                   []vfkitDisk
	rng, balloon, pty       bool
	vsockPort               int
	vsockPath               string
	vsockConnect            bool
}

type vfkitDisk struct {
	path, id string
	readOnly bool
}

// parseArgs reads a command line by the rules of vfkit v0.6.3 (pkg/cmdline, pkg/config), of which it
// knows the options that a machine of ours may use and no others. Options that may be repeated there
// and make no sense twice are refused.
func parseArgs(args []string) (vfkitArgs, error) {
	var c vfkitArgs
	seen := map[string]bool{}
	for ; len(args) > 0; args = args[2:] {
		name := args[0]
		if len(args) == 1 {
			return c, fmt.Errorf("flag needs an argument: %s", name)
		}
		if seen[name] && name != "--device" {
			return c, fmt.Errorf("%s is given twice", name)
		}
		seen[name] = true
		var err error
		switch value := args[1]; name {
		case "--cpus":
			c.cpus, err = positive(value)
		case "--memory":
			c.memory, err = positive(value)
		case "--bootloader":
			err = c.bootloader(value)
		case "--restful-uri":
			err = c.restfulURI(value)
		case "--device":
			err = c.device(value)
		default:
			err = errors.New("unknown flag")
		}
		if err != nil {
			return c, fmt.Errorf("%s %s: %w", name, args[1], err)
		}
	}
	if c.cpus == 0 || c.memory == 0 || c.kernel == "" || c.initrd == "" || c.cmdline == "" {
		return c, errors.New("the machine is not whole")
	}
	return c, nil
}

func positive(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err == nil && n == 0 {
		err = errors.New("it must not be 0")
	}
	return int(n), err
}

// cutQuoted is vfkit's parseString: commas part, except within double quotes; an element that is
// wholly in quotes loses them.
func cutQuoted(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	quoted := false
	end := func() {
		e := b.String()
		if strings.HasPrefix(e, `"`) && strings.HasSuffix(e, `"`) {
			e = strings.Trim(e, `"`)
		}
		out = append(out, e)
		b.Reset()
	}
	for _, r := range s {
		if r == '"' {
			quoted = !quoted
		}
		if r == ',' && !quoted {
			end()
			continue
		}
		b.WriteRune(r)
	}
	if quoted {
		return nil, errors.New(`mismatched "`)
	}
	end()
	return out, nil
}

func (c *vfkitArgs) bootloader(value string) error {
	parts, err := cutQuoted(value)
	if err != nil {
		return err
	}
	if parts[0] != "linux" {
		return errors.New("unknown bootloader type")
	}
	for _, p := range parts[1:] {
		key, v, _ := strings.Cut(p, "=")
		to, ok := map[string]*string{"kernel": &c.kernel, "initrd": &c.initrd, "cmdline": &c.cmdline}[key]
		if !ok || *to != "" || v == "" {
			return fmt.Errorf("unknown option for Linux bootloaders, or without a value, or twice: %s", p)
		}
		*to = v
	}
	return nil
}

func (c *vfkitArgs) restfulURI(value string) error {
	u, err := url.ParseRequestURI(value)
	if err != nil {
		return err
	}
	if u.Scheme != "unix" || u.Host != "" || u.Path == "" || len(u.Path) > 103 {
		return errors.New("invalid unix uri")
	}
	c.api = u.Path
	return nil
}

func (c *vfkitArgs) device(value string) error {
	parts := strings.Split(value, ",")
	options := map[string]string{}
	for _, p := range parts[1:] {
		key, v, _ := strings.Cut(p, "=")
		if _, ok := options[key]; ok || key == "" {
			return fmt.Errorf("option %q is given twice or has no name", key)
		}
		options[key] = v
	}
	take := func(key string) (string, bool) {
		v, ok := options[key]
		delete(options, key)
		return v, ok
	}
	flag := func(key string) (bool, error) {
		v, ok := take(key)
		if v != "" {
			return ok, fmt.Errorf("unexpected value for %s: %s", key, v)
		}
		return ok, nil
	}
	var err error
	once := func(to *bool) {
		if *to {
			err = errors.New("a second device of the kind")
		}
		*to = true
	}
	switch parts[0] {
	case "virtio-rng":
		once(&c.rng)
	case "virtio-balloon":
		once(&c.balloon)
	case "virtio-serial":
		once(&c.pty)
		if pty, ferr := flag("pty"); !pty || ferr != nil {
			return errors.Join(errors.New("one of 'logFilePath', 'stdio' or 'pty' must be set"), ferr)
		}
	case "virtio-vsock":
		if c.vsockPort != 0 {
			return errors.New("a second port")
		}
		port, _ := take("port")
		c.vsockPath, _ = take("socketURL")
		var perr error
		c.vsockPort, perr = positive(port)
		connect, ferr := flag("connect")
		if c.vsockConnect = connect; c.vsockPath == "" {
			err = errors.New("virtio-vsock needs both a port and a socket URL")
		}
		err = errors.Join(err, perr, ferr)
	case "virtio-blk":
		var d vfkitDisk
		d.path, _ = take("path")
		d.id, _ = take("deviceId")
		d.readOnly, err = flag("readonly")
		// VZVirtioBlockDeviceConfiguration's blockDeviceIdentifier: ASCII, at most 20 bytes.
		if d.path == "" || d.id == "" || len(d.id) > 20 {
			return errors.New("a disk has no path, no name or one that is too long")
		}
		c.disks = append(c.disks, d)
	default:
		return fmt.Errorf("unknown device type: %s", parts[0])
	}
	for key := range options {
		return fmt.Errorf("unknown option for %s devices: %s", parts[0], key)
	}
	return err
}

// The judge must be one: what a command line of ours could get wrong is refused.
func TestParserRefusesWhatIsWrong(t *testing.T) {
	good := []string{"--cpus", "1", "--memory", "96", "--bootloader", `linux,"kernel=/k","initrd=/i","cmdline=a b"`}
	if _, err := parseArgs(good); err != nil {
		t.Fatal(err)
	}
	for name, more := range map[string][]string{
		"no argument":             {"--device"},
		"no such flag":            {"--gui", "1"},
		"a flag twice":            {"--cpus", "1"},
		"no such device":          {"--device", "virtio-disk,path=/x"},
		"no such option":          {"--device", "virtio-blk,path=/x,deviceId=a,serial=b"},
		"a comma in a path":       {"--device", "virtio-blk,path=/x,y,deviceId=a"},
		"a value for a flag":      {"--device", "virtio-blk,path=/x,deviceId=a,readonly=true"},
		"a name that is too long": {"--device", "virtio-blk,path=/x,deviceId=abcdefghijklmnopqrstu"},
		"no kind of console":      {"--device", "virtio-serial"},
		"no socket":               {"--device", "virtio-vsock,port=52,connect"},
		"no port":                 {"--device", "virtio-vsock,socketURL=/x,connect"},
		"not a port":              {"--device", "virtio-vsock,port=x,socketURL=/x,connect"},
		"a host in the URI":       {"--restful-uri", "unix://x/y"},
		"a URI without a path":    {"--restful-uri", "unix://"},
		"a long URI":              {"--restful-uri", "unix:///" + strings.Repeat("x", 103)},
		"another scheme":          {"--restful-uri", "file:///x"},
	} {
		if _, err := parseArgs(slices.Concat(good, more)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	for _, loader := range []string{`efi,create`, `linux,"kernel=/k`, `linux,kernel=/k,kernel=/l`, `linux,root=/x`, `linux,kernel=/k,initrd=/i,cmdline=a,b`} {
		if _, err := parseArgs([]string{"--cpus", "1", "--memory", "96", "--bootloader", loader}); err == nil {
			t.Errorf("%s is accepted", loader)
		}
	}
}
