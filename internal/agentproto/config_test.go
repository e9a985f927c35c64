package agentproto_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

func goodConfig() agentproto.Config {
	return agentproto.Config{
		Protocol: agentproto.Version, MachineID: "0123456789abcdef", Name: "web", Hostname: "web", Generation: 1,
		GuestSeed: bytes.Repeat([]byte{1}, 32),
		HostKey:   ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)).Public().(ed25519.PublicKey),
		Random:    make([]byte, 64),
		Env:       map[string]string{"A": "b"},
		Main:      &agentproto.Main{Process: agentproto.Process{Args: []string{"true"}}, Attach: true},
		Services: []agentproto.Service{{
			Name: "db", Process: agentproto.Process{Args: []string{"db"}}, StopTimeout: agentproto.Duration(1500 * time.Millisecond),
		}},
		Checks: []agentproto.Check{{Name: "db-up", Command: []string{"true"}}},
		Access: agentproto.AllAccess(),
	}
}

func encode(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestConfigComesBack(t *testing.T) {
	want := goodConfig()
	got, err := agentproto.ReadConfig(strings.NewReader(encode(t, want) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
}

func TestUnusableConfigs(t *testing.T) {
	good := encode(t, goodConfig())
	change := func(f func(*agentproto.Config)) string {
		c := goodConfig()
		f(&c)
		return encode(t, c)
	}
	for name, text := range map[string]string{
		"empty":                 "",
		"no JSON":               "x",
		"cut":                   good[:len(good)-1],
		"two":                   good + good,
		"a stray bracket":       good + "}",
		"a stray list end":      good + "]",
		"noise behind":          good + "x",
		"unknown field":         strings.Replace(good, `"name"`, `"nam"`, 1),
		"over the limit":        good + strings.Repeat(" ", agentproto.MaxConfig),
		"another protocol":      change(func(c *agentproto.Config) { c.Protocol = 2 }),
		"no machine id":         change(func(c *agentproto.Config) { c.MachineID = "" }),
		"no generation":         change(func(c *agentproto.Config) { c.Generation = 0 }),
		"short seed":            change(func(c *agentproto.Config) { c.GuestSeed = c.GuestSeed[:31] }),
		"no host key":           change(func(c *agentproto.Config) { c.HostKey = nil }),
		"all-zero host key":     change(func(c *agentproto.Config) { c.HostKey = make([]byte, 32) }),
		"host key of order one": change(func(c *agentproto.Config) { c.HostKey = append([]byte{1}, make([]byte, 31)...) }),
		"short random":          change(func(c *agentproto.Config) { c.Random = c.Random[:63] }),
		"main without command":  change(func(c *agentproto.Config) { c.Main.Args = nil }),
		"service without name":  change(func(c *agentproto.Config) { c.Services[0].Name = "" }),
		"check without command": change(func(c *agentproto.Config) { c.Checks[0].Command = nil }),
		"too many services": change(func(c *agentproto.Config) {
			c.Services = make([]agentproto.Service, agentproto.MaxServices+1)
		}),
		"negative duration": strings.Replace(good, `"1.5s"`, `"-1s"`, 1),
		"huge duration":     strings.Replace(good, `"1.5s"`, `1e300`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := agentproto.ReadConfig(strings.NewReader(text)); agentproto.CodeOf(err) != agentproto.CodeUnprovisioned {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`"1.5s"`: 1500 * time.Millisecond, `2`: 2 * time.Second, `0.25`: 250 * time.Millisecond, `"0s"`: 0, `"1h2m"`: 62 * time.Minute, `0`: 0,
	} {
		var d agentproto.Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v, %v", text, time.Duration(d), err)
		}
		var back agentproto.Duration
		if err := json.Unmarshal([]byte(encode(t, d)), &back); err != nil || back != d {
			t.Errorf("%s came back as %v, %v", text, back, err)
		}
	}
	for _, text := range []string{`"x"`, `-1`, `"-1s"`, `1e10`, `[]`, `{}`, `true`} {
		var d agentproto.Duration
		if err := json.Unmarshal([]byte(text), &d); err == nil {
			t.Errorf("%s: %v", text, time.Duration(d))
		}
	}
	if d := agentproto.Duration(0).Or(time.Second); d != time.Second {
		t.Error(d)
	}
}

// A config is refused or usable; both without a panic.
func FuzzConfig(f *testing.F) {
	good := encode(f, goodConfig())
	f.Add([]byte(good))
	f.Add([]byte(good[:100]))
	f.Add([]byte(`{"protocol":1,"services":[{"stop_timeout":1e400}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := agentproto.ReadConfig(bytes.NewReader(data))
		if err != nil {
			if agentproto.CodeOf(err) != agentproto.CodeUnprovisioned {
				t.Fatalf("%v", err)
			}
			return
		}
		if _, err := agentproto.GuestTLS(c.GuestSeed, c.HostKey); err != nil {
			t.Fatalf("an accepted config makes no channel: %v", err)
		}
		if again, err := agentproto.ReadConfig(strings.NewReader(encode(t, c))); err != nil || cmp.Diff(c, again) != "" {
			t.Fatalf("%v", err)
		}
	})
}

// A hello or start from the other side never panics and is bounded.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"protocol":1,"machine_id":"0123456789abcdef","generation":1,"build":"x","time":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"args":["sh"],"env":{"A":"b"},"tty":true,"timeout":"1s","rows":65535}`))
	f.Add([]byte(`{"code":1,"error":{"code":"x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []any{
			&agentproto.Hello{}, &agentproto.ExecStart{}, &agentproto.AttachStart{}, &agentproto.Exit{}, &agentproto.Resize{},
			&agentproto.Signal{}, &agentproto.Credit{}, &agentproto.Started{}, &agentproto.ShutdownRequest{},
		} {
			if err := agentproto.Decode(data, v); err != nil && agentproto.CodeOf(err) != agentproto.CodeProtocol {
				t.Fatalf("%T: %v", v, err)
			}
		}
	})
}
