package machine

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNamesAreDNSLabels(t *testing.T) {
	good := []string{"a", "0", "web", "web-1", "a-", strings.Repeat("x", 63)}
	bad := []string{
		"", ".", "..", "a/b", "-a", "A", "wéb", "web.", "web ", " web", "we b", "a\x00", "a\n", "\x1b[31m", "a\u202eb",
		"a\u200bb", "e\u0301", "é", "a_b", "a:b", strings.Repeat("x", 64),
	}
	for _, n := range good {
		if err := CheckName(n); err != nil {
			t.Errorf("CheckName(%q) = %v, want nil", n, err)
		}
	}
	for _, n := range bad {
		err := CheckName(n)
		if CodeOf(err) != "name.invalid" {
			t.Errorf("CheckName(%q) = %v, want name.invalid", n, err)
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.ExitCode() != ExitUsage || e.Remedy == "" {
			t.Errorf("CheckName(%q): exit %d, remedy %q; want usage and a remedy", n, e.ExitCode(), e.Remedy)
		}
		if strings.ContainsAny(err.Error(), "\x1b\n\x00") {
			t.Errorf("CheckName(%q): message has raw control characters", n)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	f.Add("web-1")
	f.Add("../x")
	f.Fuzz(func(t *testing.T, s string) {
		if CheckName(s) == nil && (len(s) > MaxName || strings.ContainsAny(s, "/.\\ \x00") || s[0] == '-') {
			t.Errorf("accepted %q", s)
		}
	})
}

func TestGeneratedNamesAreValidAndFree(t *testing.T) {
	taken := map[string]bool{}
	for range 500 {
		n := NewName(func(s string) bool { return taken[s] })
		if taken[n] || CheckName(n) != nil {
			t.Fatalf("NewName gave %q (taken %v)", n, taken[n])
		}
		taken[n] = true
	}
	if n := NewName(func(string) bool { return true }); CheckName(n) != nil {
		t.Errorf("with every pretty name taken: %q", n)
	}
}

func TestParsePort(t *testing.T) {
	tests := []struct {
		in   string
		want Port
	}{
		{"80", Port{"127.0.0.1", 80, 80, "tcp"}},
		{"8080:80", Port{"127.0.0.1", 8080, 80, "tcp"}},
		{"0:80", Port{"127.0.0.1", 0, 80, "tcp"}},
		{"8080:80/tcp", Port{"127.0.0.1", 8080, 80, "tcp"}},
		{"0.0.0.0:8080:80", Port{"0.0.0.0", 8080, 80, "tcp"}},
		{"[::1]:8080:80", Port{"::1", 8080, 80, "tcp"}},
	}
	for _, tt := range tests {
		got, err := ParsePort(tt.in)
		if err != nil {
			t.Errorf("ParsePort(%q): %v", tt.in, err)
			continue
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("ParsePort(%q) (-want +got):\n%s", tt.in, d)
		}
		again, err := ParsePort(got.String())
		if err != nil || again != got {
			t.Errorf("ParsePort(%q) of its own text: %v, %v", got, again, err)
		}
	}
	for _, in := range []string{"", "a", "0", "65536", "-1", "80:0", "1:2:3:4", "8080:80/udp", "localhost:1:2", "80:65536", "::1:80:80", "[fe80::1%eth0]:1:2", "80:", ":", ":8080:80", "8 0:80", "+80:80"} {
		if p, err := ParsePort(in); CodeOf(err) != "input.port" {
			t.Errorf("ParsePort(%q) = %v, %v; want input.port", in, p, err)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	f.Add("[::1]:8080:80/tcp")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePort(s)
		if err != nil {
			return
		}
		if p.HostPort < 0 || p.HostPort > 65535 || p.GuestPort < 1 || p.GuestPort > 65535 {
			t.Errorf("ParsePort(%q) = %+v", s, p)
		}
		if q, err := ParsePort(p.String()); err != nil || q != p {
			t.Errorf("%q → %v → %v, %v", s, p, q, err)
		}
	})
}

func TestTwoPortsCannotShareAHostPort(t *testing.T) {
	a := Port{"127.0.0.1", 8080, 80, "tcp"}
	b := Port{"127.0.0.1", 8080, 81, "tcp"}
	if err := CheckPorts([]Port{a, b}); CodeOf(err) != "input.port" {
		t.Errorf("same host port: %v", err)
	}
	a.HostPort, b.HostPort = 0, 0
	if err := CheckPorts([]Port{a, b}); err != nil {
		t.Errorf("two picked ports: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "512M": 512 << 20, "512m": 512 << 20, "2G": 2 << 30, "1.5GiB": 3 << 29, "64K": 64 << 10, "1T": 1 << 40, "512MB": 512 << 20,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "M", "-1M", "1e9", "12X", "1 G", "99999999999T", "0x10", "NaN", "1..5G", "inf"} {
		if got, err := ParseSize(in); CodeOf(err) != "input.size" {
			t.Errorf("ParseSize(%q) = %d, %v; want input.size", in, got, err)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 512 << 20: "512 MiB", 3 << 29: "1.5 GiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("1.5GiB")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseSize(s); err == nil && n < 0 {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
	})
}

func TestParseEnv(t *testing.T) {
	own := map[string]string{"HOME": "/root"}
	look := func(k string) (string, bool) { v, ok := own[k]; return v, ok }
	got, err := ParseEnv([]string{"A=1", "B=x=y", "C=", "HOME", "NOPE"}, look)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"A": "1", "B": "x=y", "C": "", "HOME": "/root"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []string{"=x", "", "A B=1", "A\x00=1", "A=1\x00"} {
		if _, err := ParseEnv([]string{bad}, look); CodeOf(err) != "input.env" {
			t.Errorf("ParseEnv(%q): %v, want input.env", bad, err)
		}
	}
}

func TestSpecLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		spec Spec
		code string
	}{
		"nothing said":    {Spec{}, ""},
		"bad name":        {Spec{Name: "A"}, "name.invalid"},
		"too many CPUs":   {Spec{CPUs: 257}, "input.range"},
		"negative CPUs":   {Spec{CPUs: -1}, "input.range"},
		"little memory":   {Spec{Memory: 1 << 20}, "input.range"},
		"huge memory":     {Spec{Memory: 1 << 50}, "input.range"},
		"tiny disk":       {Spec{Disk: 4096}, "input.range"},
		"huge label":      {Spec{Labels: map[string]string{"a": strings.Repeat("x", 5000)}}, "limit.label"},
		"empty label":     {Spec{Labels: map[string]string{"": "x"}}, "limit.label"},
		"NUL in command":  {Spec{Command: []string{"a\x00"}}, "input.command"},
		"own init":        {Spec{Init: InitImage}, ""},
		"init's path":     {Spec{Init: "/sbin/runit"}, ""},
		"relative init":   {Spec{Init: "sbin/init"}, "input.init"},
		"init, command":   {Spec{Init: InitImage, Command: []string{"sh"}}, "input.init"},
		"init, user":      {Spec{Init: InitImage, User: "app"}, "input.init"},
		"same port twice": {Spec{Ports: []Port{{"127.0.0.1", 1, 1, "tcp"}, {"127.0.0.1", 1, 2, "tcp"}}}, "input.port"},
	} {
		if err := tt.spec.Check(); CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want %q", name, err, tt.code)
		}
	}
}

func TestNearest(t *testing.T) {
	for in, want := range map[string]string{"minmal": "minimal", "helo": "hello", "zzzzzz": "", "": ""} {
		if got := Nearest(in, []string{"minimal", "hello"}); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestErrorKeepsItsCauseAndSurvivesTheProcessBoundary(t *testing.T) {
	e := Errorf("x.y", "do this", "reading: %w", fs.ErrNotExist)
	if !errors.Is(e, fs.ErrNotExist) || e.ExitCode() != ExitFailed || CodeOf(e) != "x.y" {
		t.Errorf("%+v", e)
	}
	f := &Failure{Code: e.Code, Message: e.Message, Remedy: e.Remedy, Exit: ExitTimeout}
	var back *Error
	if !errors.As(f.Err(), &back) || back.Code != "x.y" || back.ExitCode() != ExitTimeout || back.Message != e.Message {
		t.Errorf("%+v", back)
	}
	if (*Failure)(nil).Err() != nil {
		t.Error("no failure is an error")
	}
}
