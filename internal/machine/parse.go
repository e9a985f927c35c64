package machine

import (
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// Port is one published port: what arrives on Host:HostPort goes to GuestPort of the guest's
// loopback interface.
type Port struct {
	Host      string `json:"host"`      // address to bind; "127.0.0.1" unless said otherwise
	HostPort  int    `json:"host_port"` // 0 picks a free one
	GuestPort int    `json:"guest_port"`
	Proto     string `json:"proto"` // "tcp"
}

// String returns the port as -p takes it.
func (p Port) String() string {
	host := p.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d:%d", host, p.HostPort, p.GuestPort)
}

// ParsePort reads [ADDRESS:]HOSTPORT:GUESTPORT, or GUESTPORT alone for the same port on both
// sides, with an optional /tcp. IPv6 addresses stand in brackets.
func ParsePort(s string) (Port, error) {
	const remedy = "write [ADDRESS:]HOSTPORT:GUESTPORT, for example 8080:80 or 127.0.0.1:0:80"
	bad := func(why string) (Port, error) {
		return Port{}, Usagef("input.port", remedy, "%q is not a port: %s", clip(s), why)
	}
	rest, proto, hasProto := strings.Cut(s, "/")
	if hasProto && proto != "tcp" {
		return bad("only tcp can be published here")
	}
	host := "127.0.0.1"
	if i := strings.LastIndex(rest, "]:"); strings.HasPrefix(rest, "[") && i > 0 {
		host, rest = rest[1:i], rest[i+2:]
	} else if parts := strings.Split(rest, ":"); len(parts) == 3 {
		host, rest = parts[0], parts[1]+":"+parts[2]
	} else if len(parts) > 3 {
		return bad("too many colons; put an IPv6 address in brackets")
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return bad("the address is not an IP address")
	}
	hostText, guestText, two := strings.Cut(rest, ":")
	if !two {
		guestText = hostText
	}
	hostPort, err := parsePortNumber(hostText, 0)
	if err != nil {
		return bad("host port " + err.Error())
	}
	guestPort, err := parsePortNumber(guestText, 1)
	if err != nil {
		return bad("guest port " + err.Error())
	}
	return Port{Host: addr.String(), HostPort: hostPort, GuestPort: guestPort, Proto: "tcp"}, nil
}

func parsePortNumber(s string, least int) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", clip(s))
	}
	if n > 65535 || int(n) < least {
		return 0, fmt.Errorf("%d is not within %d..65535", n, least)
	}
	return int(n), nil
}

// CheckPorts refuses a list in which two entries would bind the same host port.
func CheckPorts(ports []Port) error {
	seen := map[string]bool{}
	for _, p := range ports {
		key := fmt.Sprintf("%s:%d", p.Host, p.HostPort)
		if p.HostPort != 0 && seen[key] {
			return Usagef("input.port", "give each published port its own host port", "host port %s is published twice", key)
		}
		seen[key] = true
	}
	return nil
}

// ParseSize reads a size in bytes with an optional binary suffix: 512M, 2G, 1.5GiB, 1048576.
// As docker does, k, m, g and t are powers of 1024, in either case, with an optional b or ib.
func ParseSize(s string) (int64, error) {
	bad := func() (int64, error) {
		return 0, Usagef("input.size", "write a number with K, M, G or T, for example 512M or 2G", "%q is not a size", clip(s))
	}
	t := strings.ToLower(strings.TrimSpace(s))
	t = strings.TrimSuffix(strings.TrimSuffix(t, "b"), "i")
	mult := 1.0
	if n := len(t); n > 0 {
		if i := strings.IndexByte("kmgt", t[n-1]); i >= 0 {
			for range i + 1 {
				mult *= 1024
			}
			t = t[:n-1]
		}
	}
	if t == "" || strings.Trim(t, "0123456789.") != "" {
		return bad()
	}
	v, err := strconv.ParseFloat(t, 64)
	if err != nil || v < 0 || v*mult > 1<<60 {
		return bad()
	}
	return int64(v * mult), nil
}

// FormatSize returns n bytes as people read it: "512 MiB", "1.5 GiB".
func FormatSize(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	text := strconv.FormatFloat(v, 'f', 1, 64)
	return strings.TrimSuffix(text, ".0") + " " + units[i:i+1] + "iB"
}

// ParseEnv reads KEY=VALUE, or KEY alone, whose value lookup answers (the caller's own
// environment); an unknown KEY alone is left out, as docker does.
func ParseEnv(entries []string, lookup func(string) (string, bool)) (map[string]string, error) {
	env := make(map[string]string, len(entries))
	for _, e := range entries {
		key, value, has := strings.Cut(e, "=")
		if key == "" || strings.ContainsAny(key, " \t\n\x00") || strings.ContainsRune(value, 0) {
			return nil, Usagef("input.env", "write KEY=VALUE, or KEY to pass on your own value", "%q is not an environment entry", clip(e))
		}
		if !has {
			v, ok := lookup(key)
			if !ok {
				continue
			}
			value = v
		}
		env[key] = value
	}
	return env, nil
}

// Check validates the parts of a Spec that need no knowledge of the host.
func (s *Spec) Check() error {
	if s.Name != "" {
		if err := CheckName(s.Name); err != nil {
			return err
		}
	}
	switch {
	case s.CPUs < 0 || s.CPUs > MaxCPUs:
		return Usagef("input.range", "use --cpus 1 to --cpus 256", "%d CPUs is not within 1..%d", s.CPUs, MaxCPUs)
	case s.Memory != 0 && (s.Memory < MinMemory || s.Memory > MaxMemory):
		return Usagef("input.range", "use --memory 96M or more", "memory of %s is not within %s..%s", FormatSize(s.Memory), FormatSize(MinMemory), FormatSize(MaxMemory))
	case s.Disk != 0 && (s.Disk < MinDisk || s.Disk > MaxDisk):
		return Usagef("input.range", "use --disk 16M or more", "disk of %s is not within %s..%s", FormatSize(s.Disk), FormatSize(MinDisk), FormatSize(MaxDisk))
	case s.Sealed && len(s.Ports) > 0:
		return Usagef("input.port", "leave out --publish or --sealed", "a sealed machine carries no connections, so no port of it can be published")
	case s.Init != "" && s.Init != InitImage && (!path.IsAbs(s.Init) || strings.ContainsRune(s.Init, 0)):
		return Usagef("input.init", "use --init image, or the absolute path of an init in the image", "%q is no init", clip(s.Init))
	case s.Init != "" && (len(s.Command) > 0 || s.User != "" || s.Dir != ""):
		return Usagef("input.init", "leave out --init, or the command, --user and --workdir", "with --init the init is the machine's program, and it starts what else runs")
	case len(s.Labels) > 64 || len(s.Env) > 1024:
		return Usagef("limit.entries", "use at most 64 labels and 1024 environment entries", "too many labels or environment entries")
	}
	for k, v := range s.Labels {
		if k == "" || len(k)+len(v) > 4096 {
			return Usagef("limit.label", "keep a label and its value under 4096 bytes", "label %q is empty or too long", clip(k))
		}
	}
	for _, a := range s.Command {
		if strings.ContainsRune(a, 0) {
			return Usagef("input.command", "remove the NUL byte", "the command contains a NUL byte")
		}
	}
	if err := CheckServices(s.Services, s.Checks); err != nil {
		return err
	}
	if err := CheckVolumes(s.Volumes); err != nil {
		return err
	}
	return CheckPorts(s.Ports)
}
