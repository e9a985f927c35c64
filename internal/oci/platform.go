package oci

import (
	"runtime"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Platform is what an image runs on, in Go's words.
type Platform struct {
	OS, Arch, Variant string
}

// HostPlatform is what machines on this host run by default.
func HostPlatform() Platform { return Platform{OS: "linux", Arch: runtime.GOARCH} }

// ParsePlatform reads "linux/arm64/v8", "linux/arm64" or "arm64".
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 1 {
		parts = []string{"linux", parts[0]}
	}
	if len(s) > 64 || len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool {
		return p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != ""
	}) {
		return Platform{}, machine.Usagef("input.platform", "write it like linux/amd64 or linux/arm64/v8", "%s is not a platform", quote(s))
	}
	p := Platform{OS: parts[0], Arch: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p.normal(), nil
}

// normal gives equal platforms equal names.
func (p Platform) normal() Platform {
	switch p.Arch {
	case "x86_64", "x86-64":
		p.Arch = "amd64"
	case "aarch64":
		p.Arch = "arm64"
	}
	switch {
	case p.Arch == "arm64" && (p.Variant == "v8" || p.Variant == "8"),
		p.Arch == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Arch == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Arch
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// rank says how well p suits a host of platform want: 0 not at all, and more is better. A
// processor runs what was made for the older ones of its kind.
func (p Platform) rank(want Platform) int {
	p, want = p.normal(), want.normal()
	switch {
	case p.OS != want.OS || p.Arch != want.Arch:
		return 0
	case p.Variant == want.Variant:
		return 1000
	case p.Variant == "":
		return 1
	case want.Variant == "" || len(p.Variant) > len(want.Variant):
		return 0 // newer than what is known to be there
	case len(p.Variant) == len(want.Variant) && p.Variant > want.Variant:
		return 0
	}
	rank := 1
	for _, r := range p.Variant { // "v6" before "v5", "v8.2" before "v8"
		if r >= '0' && r <= '9' {
			rank = min(rank*10+int(r-'0'), 900)
		}
	}
	return rank
}

// platformError says which platforms there are instead of want.
func platformError(want Platform, there []Platform) error {
	const most = 20
	var names []string
	for _, p := range there {
		name := plain(p.String())
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	list := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		list += ", …"
	}
	if list == "" {
		list = "none that says what it is for"
	}
	return machine.Errorf("image.platform", "choose one of them with --platform, or an image made for "+want.String(),
		"there is no image for %s; there is: %s", want, list)
}
