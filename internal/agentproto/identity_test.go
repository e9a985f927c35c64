package agentproto_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Keys with which a signature proves nothing are no pins, in any of their encodings.
func TestSmallOrderPins(t *testing.T) {
	seed := bytes.Repeat([]byte{1}, ed25519.SeedSize)
	for _, text := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"01",
		"",
	} {
		pin, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := agentproto.HostTLS(seed, pin); agentproto.CodeOf(err) != agentproto.CodeAuth {
			t.Errorf("%s as the guest's key: %v", text, err)
		}
		if _, err := agentproto.GuestTLS(seed, pin); agentproto.CodeOf(err) != agentproto.CodeAuth {
			t.Errorf("%s as the host's key: %v", text, err)
		}
	}
}

// The settings that the profile rests on; a change here is a change of the protocol.
func TestProfile(t *testing.T) {
	pub, priv, _ := ed25519.GenerateKey(nil)
	for _, make := range []func(seed, pin []byte) (*tls.Config, error){agentproto.HostTLS, agentproto.GuestTLS} {
		c, err := make(priv.Seed(), pub)
		if err != nil {
			t.Fatal(err)
		}
		if c.MinVersion != tls.VersionTLS13 || c.MaxVersion != tls.VersionTLS13 || !c.SessionTicketsDisabled ||
			len(c.NextProtos) != 1 || c.NextProtos[0] != "mvm-agent/1" || c.VerifyConnection == nil || c.ClientSessionCache != nil {
			t.Errorf("%+v", c)
		}
		if n := len(c.Certificates[0].Certificate); n != 1 || len(c.Certificates[0].Certificate[0]) > agentproto.MaxCertificate/4 {
			t.Errorf("%d certificates, the first of %d bytes", n, len(c.Certificates[0].Certificate[0]))
		}
	}
}

func TestLimitHandshake(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		b.Write(make([]byte, 3*agentproto.MaxHandshakeBytes))
		b.Close()
	}()
	l, lift := agentproto.LimitHandshake(a)
	n, err := io.Copy(io.Discard, l)
	if n != agentproto.MaxHandshakeBytes || agentproto.CodeOf(err) != agentproto.CodeProtocol {
		t.Errorf("%d bytes, %v", n, err)
	}
	lift()
	if n, err := io.Copy(io.Discard, l); n != 2*agentproto.MaxHandshakeBytes || err != nil {
		t.Errorf("%d bytes afterwards, %v", n, err)
	}
}
