package egress

import (
	"net/netip"
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Example.ORG": "example.org", "a.b.": "a.b", "xn--bcher-kva.example": "xn--bcher-kva.example", "_sip._tcp.example.org": "_sip._tcp.example.org",
		"localhost": "localhost", "1.example": "1.example",
		"": "", ".": "", "a..b": "", ".a": "", "a.b..": "", "ex ample.org": "", "ok.test\x00.evil": "", "ok.test%00": "", "ok。test": "", "ok.test:443": "",
		"evil@ok.test": "", "-a.b": "", "a-.b": "", "1.2.3.4": "", "127.1": "", "0x7f000001": "", "a.0x7f": "", "2130706433": "", "::1": "", "[::1]": "",
		strings.Repeat("a", 64) + ".b": "", strings.Repeat("a.", 127) + "b": "", strings.Repeat("a.", 126) + "b": strings.Repeat("a.", 126) + "b",
	} {
		got, err := Name(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("Name(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Kind{
		"1.1.1.1": Public, "2606:4700::1": Public, "127.0.0.1": Host, "0.0.0.0": Host, "::1": Host, "::": Host, "10.1.2.3": Private, "172.31.0.1": Private,
		"172.32.0.1": Public, "192.168.1.1": Private, "100.64.0.1": Private, "fd00::1": Private, "169.254.169.254": LinkLocal, "fe80::1%eth0": LinkLocal,
		"::ffff:127.0.0.1": Host, "::ffff:169.254.169.254": LinkLocal, "64:ff9b::7f00:1": Host, "64:ff9b::a9fe:a9fe": LinkLocal, "2002:7f00:1::": Host,
		"2002:a9fe:a9fe::1": LinkLocal, "::10.0.0.1": Private, "2001:0:1:2:3:4:80ff:fffe": Host, "224.0.0.251": Special, "ff02::1": Special, "255.255.255.255": Special,
		"64:ff9b::808:808": Public, "198.18.0.1": Special,
	} {
		if got := KindOf(netip.MustParseAddr(in)); got != want {
			t.Errorf("KindOf(%s) = %q, want %q", in, got, want)
		}
	}
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Rule{
		"example.org":          {Name: "example.org"},
		"Bücher.example:443":   {Name: "xn--bcher-kva.example", Low: 443, High: 443},
		".example.org":         {Name: "example.org", Below: true},
		"*.example.org:80-443": {Name: "example.org", Below: true, Only: true, Low: 80, High: 443},
		"*":                    {Below: true, Only: true},
		"udp:10.0.0.0/8:53":    {Proto: UDP, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Low: 53, High: 53},
		"tcp:[2001:db8::1]:22": {Proto: TCP, Prefix: netip.MustParsePrefix("2001:db8::1/128"), Low: 22, High: 22},
		"2001:db8::/32":        {Prefix: netip.MustParsePrefix("2001:db8::/32")},
		"::ffff:1.2.3.4":       {Prefix: netip.MustParsePrefix("1.2.3.4/32")},
		"tcp:example.org":      {Proto: TCP, Name: "example.org"},
	} {
		want.Text = in
		if want.Proto == "" {
			want.Proto = TCP
		}
		if got, err := ParseRule(in); err != nil || got != want {
			t.Errorf("ParseRule(%q) = %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", ":443", "example.org:", "example.org:0", "example.org:65536", "example.org:9-1", "example.org:1-", "a b", "http://example.org", "*.*.org", "a.*.org",
		"*example.org", "10.0.0.1/8", "[::1", "[::1]x", "sctp:example.org", "1.2.3", "example.org/24", "::ffff:1.2.3.4/120", "fe80::1%eth0",
	} {
		if got, err := ParseRule(in); err == nil {
			t.Errorf("ParseRule(%q) = %+v, want an error", in, got)
		}
	}
}

func rules(t testing.TB, texts ...string) []Rule {
	t.Helper()
	var out []Rule
	for _, text := range texts {
		r, err := ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestPolicyToName(t *testing.T) {
	t.Parallel()
	strict := Policy{Allow: rules(t, "ok.test:443", "*.many.test", ".both.test", "udp:time.test:123"), Deny: rules(t, "bad.many.test", "part.many.test:22")}
	open := Policy{Open: true, Deny: rules(t, "bad.test")}
	for _, tt := range []struct {
		p     Policy
		proto Proto
		name  string
		port  uint16
		want  bool
	}{
		{strict, TCP, "ok.test", 443, true},
		{strict, TCP, "ok.test", 80, false},
		{strict, "", "ok.test", 0, true},
		{strict, TCP, "evil-ok.test", 443, false},
		{strict, TCP, "ok.test.evil", 443, false},
		{strict, TCP, "sub.ok.test", 443, false},
		{strict, TCP, "many.test", 1, false},
		{strict, TCP, "a.b.many.test", 1, true},
		{strict, TCP, "evilmany.test", 1, false},
		{strict, TCP, "both.test", 1, true},
		{strict, TCP, "x.both.test", 1, true},
		{strict, UDP, "x.both.test", 443, false}, // QUIC
		{strict, TCP, "bad.many.test", 443, false},
		{strict, "", "bad.many.test", 0, false},
		{strict, TCP, "part.many.test", 22, false},
		{strict, TCP, "part.many.test", 23, true},
		{strict, "", "part.many.test", 0, true},
		{strict, UDP, "time.test", 123, true},
		{strict, TCP, "time.test", 123, false},
		{strict, "", "time.test", 0, true},
		{open, TCP, "any.test", 1, true},
		{open, TCP, "bad.test", 1, false},
		{Policy{}, "", "any.test", 0, false},
	} {
		if d := tt.p.ToName(tt.proto, tt.name, tt.port); d.Allowed != tt.want || !d.Allowed && d.Why == "" {
			t.Errorf("%s %s:%d: %+v, want %v", tt.proto, tt.name, tt.port, d, tt.want)
		}
	}
}

func TestPolicyToAddr(t *testing.T) {
	t.Parallel()
	strict := Policy{Allow: rules(t, "10.0.0.0/8:5432", "9.9.9.9", "*", "127.0.0.1:8080")}
	open := Policy{Open: true, Deny: rules(t, "192.168.0.0/16")}
	for _, tt := range []struct {
		p        Policy
		addr     string
		port     uint16
		addrOK   bool // named by the guest
		resolved bool // found for an allowed name
	}{
		{strict, "9.9.9.9", 53, true, true},
		{strict, "::ffff:9.9.9.9", 53, true, true},
		{strict, "8.8.8.8", 443, false, true},
		{strict, "10.1.1.1", 5432, true, true},
		{strict, "10.1.1.1", 22, false, false},
		{strict, "64:ff9b::a01:101", 22, false, false},
		{strict, "169.254.169.254", 80, false, false},
		{strict, "127.0.0.1", 8080, true, true},
		{strict, "127.0.0.1", 80, false, false},
		{open, "8.8.8.8", 1, true, true},
		{open, "10.0.0.1", 1, true, true},
		{open, "192.168.1.1", 1, false, false},
		{open, "64:ff9b::c0a8:101", 1, false, false},
		{open, "169.254.169.254", 80, false, false},
		{open, "127.0.0.1", 22, false, false},
	} {
		a := netip.MustParseAddr(tt.addr)
		if d := tt.p.ToAddr(TCP, a, tt.port); d.Allowed != tt.addrOK || !d.Allowed && d.Why == "" {
			t.Errorf("%s:%d: %+v, want %v", tt.addr, tt.port, d, tt.addrOK)
		}
		if d := tt.p.Resolved(TCP, a, tt.port); d.Allowed != tt.resolved || !d.Allowed && d.Why == "" {
			t.Errorf("%s:%d resolved: %+v, want %v", tt.addr, tt.port, d, tt.resolved)
		}
	}
}

// Whatever is taken for a name is in the one form that rules are compared in, and stays it.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a.b", "A.B.", "ok.test\x00", "1.2.3.4", "xn--a", "_x.y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := Name(s)
		if err != nil {
			return
		}
		if again, err := Name(name); err != nil || again != name {
			t.Errorf("Name(%q) = %q, and of that %q, %v", s, name, again, err)
		}
		if _, err := netip.ParseAddr(name); err == nil || name != strings.ToLower(name) || strings.ContainsAny(name, " \x00%:/@") {
			t.Errorf("Name(%q) = %q", s, name)
		}
	})
}

// Whatever is taken for a rule is for something, and allows itself and not its neighbour.
func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"a.b:1-2", "*.a.b", ".a", "udp:10.0.0.0/8:53", "[::1]:2", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRule(s)
		if err != nil {
			return
		}
		if r.Name != "" {
			if name, err := Name(r.Name); err != nil || name != r.Name {
				t.Errorf("%q is for %q", s, r.Name)
			}
			p := Policy{Allow: []Rule{r}}
			if p.ToName("", "x"+r.Name, 0).Allowed || p.ToName("", r.Name+"x", 0).Allowed {
				t.Errorf("%q allows a neighbour of %q", s, r.Name)
			}
			if p.ToName("", r.Name, 0).Allowed == r.Only || len(r.Name) < 200 && p.ToName("", "x."+r.Name, 0).Allowed != r.Below {
				t.Errorf("%q does not allow what it is for", s)
			}
		}
		if r.Low > r.High || r.Prefix.IsValid() == (r.Name != "" || r.Only) {
			t.Errorf("%q: %+v", s, r)
		}
	})
}

// The presets say what they are for, and allow nothing that their names do not promise.
func TestPresets(t *testing.T) {
	t.Parallel()
	for _, name := range Presets() {
		more := rules(t, "mirror.corp.test:8443")
		p, err := Preset(name, more...)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name string
			port uint16
			want string // the presets that allow it
		}{
			{"registry.npmjs.org", 443, "unrestricted dev registries"},
			{"registry.npmjs.org", 80, "unrestricted"},
			{"deb.debian.org", 80, "unrestricted dev registries"},
			{"github.com", 22, "unrestricted dev"},
			{"mirror.corp.test", 8443, "unrestricted dev registries"},
			{"example.org", 443, "unrestricted"},
		} {
			if got := p.ToName(TCP, tt.name, tt.port).Allowed; got != strings.Contains(tt.want, name) {
				t.Errorf("%s: %s:%d: %v", name, tt.name, tt.port, got)
			}
		}
		if p.ToName(UDP, "registry.npmjs.org", 443).Allowed != p.Open {
			t.Errorf("%s: QUIC", name)
		}
		seen := map[string]bool{}
		for _, r := range p.Allow {
			if seen[r.Text] {
				t.Errorf("%s has %q twice", name, r.Text)
			}
			seen[r.Text] = true
		}
	}
	if _, err := Preset("nope"); err == nil {
		t.Error("there is a preset nope")
	}
}

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	p, err := ParsePolicy("mine", []byte("preset = \"registries\"\nallow = [\"api.test:443\", \"10.0.0.0/8:5432\"]\ndeny = [\".npmjs.org\"]\n"))
	if err != nil || p.Name != "mine" || !p.ToName(TCP, "api.test", 443).Allowed || !p.ToName(TCP, "pypi.org", 443).Allowed || p.ToName(TCP, "registry.npmjs.org", 443).Allowed {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := ParsePolicy("empty", nil); err != nil || p.Open || p.Allow != nil {
		t.Errorf("%+v, %v", p, err)
	}
	for text, says := range map[string]string{
		"allow = [\"a b\"]":      "neither a host name",
		"\nalow = []":            "line 2: there is no setting \"alow\"",
		"preset = \"all\"":       "no preset \"all\"",
		"allow = 3":              "line 1",
		"allow = [\"a\"":         "line 1",
		"deny = [\"a.test:0\"]":  "neither a port",
		"preset = \"none\"\nx.y": "line 2",
	} {
		if _, err := ParsePolicy("bad", []byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}
