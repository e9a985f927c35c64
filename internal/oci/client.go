package oci

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Options say how images are fetched. The zero value is the usual way.
type Options struct {
	// Insecure lists registries, as HOST or HOST:PORT, that are spoken to without TLS. This
	// host's own always are.
	Insecure []string
	// Keychain answers who we are at a registry; nil means what `docker login` and `podman login`
	// wrote, and their credential helpers.
	Keychain authn.Keychain
	// Getenv finds the local engine; nil means os.Getenv.
	Getenv func(string) string
	// UserAgent is told to registries.
	UserAgent string
}

// Client fetches images. It can be used by several goroutines at once.
type Client struct {
	o     Options
	tune  tuning
	proxy func(*http.Request) (*url.URL, error)

	named   *http.Transport // to the registry that the user named
	foreign *http.Transport // to where it sends us

	mu     sync.Mutex
	reach  map[string]reach  // of the registries, by host and port
	tokens map[string]string // Authorization, by registry and repository
}

// tuning is what tests make smaller.
type tuning struct {
	idle     time.Duration // without a byte
	engine   time.Duration // the same for a local engine, which first packs what it sends
	window   time.Duration // in which at least floor bytes come
	floor    int64
	retries  int
	backoff  time.Duration // before the first retry; doubled for each further one
	longest  time.Duration // wait between two tries, whatever the peer asks for
	parallel int
	now      func() time.Time
	wait     func(ctx context.Context, d time.Duration) error
	reachOf  func(netip.Addr) reach
	dial     func(ctx context.Context, network, address string, check func(netip.Addr) error) (net.Conn, error)
}

// New makes a client. Nothing is opened before it is needed.
func New(o Options) *Client {
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	if o.UserAgent == "" {
		o.UserAgent = "mvmctl"
	}
	c := &Client{
		o: o, reach: map[string]reach{}, tokens: map[string]string{},
		tune: tuning{
			idle: 30 * time.Second, engine: 10 * time.Minute, window: time.Minute, floor: 60 << 10,
			retries: 5, backoff: 500 * time.Millisecond, longest: 30 * time.Second, parallel: 4,
			now: time.Now, wait: waitFor, reachOf: reachOf, dial: dial,
		},
		proxy: http.ProxyFromEnvironment,
	}
	c.named, c.foreign = c.newTransport(false), c.newTransport(true)
	return c
}

// Close gives up idle connections.
func (c *Client) Close() {
	c.named.CloseIdleConnections()
	c.foreign.CloseIdleConnections()
}

// Resolve finds out what a source has to offer for a platform. Of a registry it asks for the tag
// once, and for everything else by digest, so that an image that is published anew in between
// cannot mix with the old one. A saved file is read once, without its layers where it can be
// skipped in; an engine says what the image is without packing it.
func (c *Client) Resolve(ctx context.Context, s Source, want Platform) (Image, error) {
	if want == (Platform{}) {
		want = HostPlatform()
	}
	want = want.normal()
	var img Image
	var err error
	switch s.kind {
	case kindRegistry:
		img, err = c.resolveRegistry(ctx, s.ref, want)
	case kindLayout:
		img, err = resolveLayout(ctx, s, want)
	case kindSaved, kindOCIArchive:
		img, err = resolveSaved(ctx, s, want)
	case kindEngine:
		img, err = c.resolveEngine(ctx, s, want)
	}
	if ctx.Err() != nil {
		return Image{}, context.Cause(ctx)
	}
	if err != nil {
		return Image{}, located(err, s.String())
	}
	img.Ref, img.source = s.String(), s
	return img, nil
}

// Progress is told how many of how many stored bytes are here; total is UnknownSize for an
// engine. It is never called twice at once.
type Progress func(done, total int64)

// Fetch brings those layers of an image that are not in blobs yet. It returns the image with
// what was learnt: the digests and sizes of layers that a saved file or an engine does not
// tell before. When ctx ends, what came so far is kept for the next Fetch.
func (c *Client) Fetch(ctx context.Context, img Image, blobs *Blobs, progress Progress) (Image, error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	var err error
	ref := img.Ref
	switch img.source.kind {
	case kindRegistry, kindLayout:
		err = c.fetchBlobs(ctx, img, blobs, progress)
	case kindSaved, kindOCIArchive:
		img, err = fetchSaved(ctx, img, blobs, progress)
	case kindEngine:
		img, err = c.fetchEngine(ctx, img, blobs, progress)
	}
	if err != nil {
		if ctx.Err() != nil {
			return Image{}, context.Cause(ctx)
		}
		return Image{}, located(err, ref)
	}
	return img, nil
}

// waitFor waits, or ends with ctx.
func waitFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause waits before try number n (from 1), as long as the peer asks within reason, and with
// some chance in it, so that many clients do not come back as one.
func (c *Client) pause(ctx context.Context, n int, asked time.Duration) error {
	d := c.tune.backoff << (n - 1)
	d += time.Duration(rand.Int64N(int64(d)/2 + 1))
	return c.tune.wait(ctx, min(max(d, asked), c.tune.longest))
}
