package agentproto

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"time"
)

// MaxHandshakeBytes bounds what either end reads from a peer before the TLS handshake with
// it is done. A real handshake with one Ed25519 certificate needs under 2 KiB.
const MaxHandshakeBytes = 16 << 10

// HostTLS returns the host's TLS settings: the client, whoever dialled. seed is the host's
// private Ed25519 seed, pin the guest's public key.
func HostTLS(seed, pin []byte) (*tls.Config, error) {
	c, err := channelTLS(seed, pin, "guest")
	if err != nil {
		return nil, err
	}
	// The chain is not verified because there is none: VerifyConnection, which also runs when
	// this is set, compares the peer's key with the pin.
	c.InsecureSkipVerify = true
	return c, nil
}

// GuestTLS returns the guest's TLS settings: the server. seed is the guest's private Ed25519
// seed, pin the host's public key.
func GuestTLS(seed, pin []byte) (*tls.Config, error) {
	c, err := channelTLS(seed, pin, "host")
	if err != nil {
		return nil, err
	}
	c.ClientAuth = tls.RequireAnyClientCert
	return c, nil
}

// channelTLS is what both ends have in common: TLS 1.3, one ALPN value, one certificate, no
// tickets and therefore no resumption and no early data.
func channelTLS(seed, pin []byte, peer string) (*tls.Config, error) {
	if err := checkPin(pin); err != nil {
		return nil, &Error{Code: CodeAuth, Message: fmt.Sprintf("the pinned key of the %s is unusable: %v", peer, err)}
	}
	cert, err := certificate(seed)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		Certificates:           []tls.Certificate{cert},
		SessionTicketsDisabled: true,
		// A hybrid post-quantum exchange would protect the bytes of a pipe inside one machine,
		// at a price that emulation makes noticeable.
		CurvePreferences: []tls.CurveID{tls.X25519},
		// Small first records are for a network's slow start. Here each costs an interrupt.
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            func(s tls.ConnectionState) error { return checkPeer(s, pin, peer) },
	}, nil
}

// certificate makes the throw-away self-signed certificate that carries an Ed25519 key: Go's
// TLS has no raw public keys (RFC 7250). Its dates mean nothing, and nobody looks at them.
func certificate(seed []byte) (tls.Certificate, error) {
	if len(seed) != ed25519.SeedSize {
		return tls.Certificate{}, &Error{Code: CodeAuth, Message: fmt.Sprintf("a private seed of %d bytes instead of %d", len(seed), ed25519.SeedSize)}
	}
	key := ed25519.NewKeyFromSeed(seed)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0).UTC(),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the channel certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// checkPeer is the whole of peer authentication: the TLS handshake has proved that the peer
// holds the private key of its certificate; here the key must be the pinned one.
func checkPeer(s tls.ConnectionState, pin []byte, peer string) error {
	refuse := func(format string, args ...any) error {
		return &Error{
			Code: CodeAuth, Message: fmt.Sprintf("the %s ", peer) + fmt.Sprintf(format, args...),
			Remedy: "another program may answer on the agent's port; restart the machine",
		}
	}
	if s.Version != tls.VersionTLS13 {
		return &Error{Code: CodeVersion, Message: fmt.Sprintf("the %s does not speak TLS 1.3", peer)}
	}
	if s.NegotiatedProtocol != ALPN {
		return &Error{Code: CodeVersion, Message: fmt.Sprintf("the %s offers protocol %q, not %q", peer, s.NegotiatedProtocol, ALPN)}
	}
	if s.DidResume {
		return refuse("resumed an older session")
	}
	if n := len(s.PeerCertificates); n != 1 {
		return refuse("sent %d certificates instead of one", n)
	}
	cert := s.PeerCertificates[0]
	if len(cert.Raw) > MaxCertificate {
		return refuse("sent a certificate of %d bytes, the limit is %d", len(cert.Raw), MaxCertificate)
	}
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return refuse("has a key of type %T, only Ed25519 is accepted", cert.PublicKey)
	}
	if subtle.ConstantTimeCompare(key, pin) != 1 {
		return refuse("has another key than this machine's generation")
	}
	return nil
}

// checkPin refuses keys for which a signature proves nothing: points of small order, in all
// their encodings (the list is libsodium's ge25519_has_small_order).
func checkPin(pin []byte) error {
	if len(pin) != ed25519.PublicKeySize {
		return fmt.Errorf("%d bytes instead of %d", len(pin), ed25519.PublicKeySize)
	}
	k := hex.EncodeToString(pin[:31]) + hex.EncodeToString([]byte{pin[31] & 0x7f})
	switch k {
	case "0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f":
		return errors.New("it is a point of small order")
	}
	return nil
}

// LimitHandshake returns conn with a limit of MaxHandshakeBytes on what can be read from it
// until the returned function is called.
func LimitHandshake(conn net.Conn) (net.Conn, func()) {
	l := &limitedConn{Conn: conn}
	l.left.Store(MaxHandshakeBytes)
	return l, func() { l.open.Store(true) }
}

type limitedConn struct {
	net.Conn
	open atomic.Bool
	left atomic.Int64
}

func (l *limitedConn) Read(p []byte) (int, error) {
	if l.open.Load() {
		return l.Conn.Read(p)
	}
	left := l.left.Load()
	if left <= 0 {
		return 0, &Error{Code: CodeProtocol, Message: "the peer sends more than a handshake needs"}
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := l.Conn.Read(p)
	l.left.Add(-int64(n))
	return n, err
}

var _ io.Reader = (*limitedConn)(nil)
