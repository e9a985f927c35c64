package machine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseVolume(t *testing.T) {
	t.Parallel()
	good := map[string]Volume{
		"data:/var/lib/redis":         {Kind: VolumeData, Source: "data", Target: "/var/lib/redis"},
		"data:/srv/:ro":               {Kind: VolumeData, Source: "data", Target: "/srv", ReadOnly: true},
		"data:/srv:rw,size=64M":       {Kind: VolumeData, Source: "data", Target: "/srv", Size: 64 << 20},
		"./etc:/etc/app":              {Kind: VolumeConfig, Source: "./etc", Target: "/etc/app", ReadOnly: true},
		"/host/key:/run/secrets/k:ro": {Kind: VolumeConfig, Source: "/host/key", Target: "/run/secrets/k", ReadOnly: true},
		".:/src:secret":               {Kind: VolumeSecret, Source: ".", Target: "/src", ReadOnly: true},
	}
	for text, want := range good {
		got, err := ParseVolume(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("ParseVolume(%q): %v\n%s", text, err, diff)
		}
	}
	bad := map[string]string{
		"":               "source is missing",
		":":              "source is missing",
		"a":              "path in the guest is missing",
		"a:":             "path in the guest is missing",
		"a:b":            "not absolute",
		":/x":            "source is missing",
		"a:/":            "root is the image",
		"a:/x/../":       "root is the image",
		"a:/run/mvm/bin": "in the way of /run/mvm",
		"a:/run":         "in the way of /run/mvm",
		"a:/proc":        "/proc is the guest's own",
		"A:/x":           "lower-case",
		"a:/x:wat":       `no option "wat"`,
		"a:/x:size=1":    "not a size from",
		"a:/x:secret":    `no option "secret"`,
		"./a:/x:rw":      "read-only",
		"./a:/x:size=1G": "no option",
		"a:/x\x00":       "NUL",
	}
	for text, want := range bad {
		got, err := ParseVolume(text)
		if CodeOf(err) != "input.volume" || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseVolume(%q): %+v, %v; want %q", text, got, err, want)
		}
	}
}

func TestCheckVolumes(t *testing.T) {
	t.Parallel()
	a, b := Volume{Kind: VolumeData, Source: "a", Target: "/x"}, Volume{Kind: VolumeData, Source: "b", Target: "/y"}
	if err := CheckVolumes([]Volume{a, b}); err != nil {
		t.Error(err)
	}
	same := b
	same.Target = "/x"
	again := a
	again.Target = "/z"
	for _, vs := range [][]Volume{{a, same}, {a, again}, make([]Volume, MaxVolumes+1)} {
		if err := CheckVolumes(vs); err == nil {
			t.Errorf("%+v was accepted", vs)
		}
	}
}

func FuzzParseVolume(f *testing.F) {
	for _, s := range []string{"data:/x", "./a:/b:ro,secret", "a:/x:size=1G", ":", "a:/../.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVolume(s)
		if err == nil && (checkTarget(v.Target) != "" || !strings.HasPrefix(v.Target, "/") || v.Source == "") {
			t.Errorf("%q: %+v", s, v)
		}
	})
}
