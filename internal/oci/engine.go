package oci

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// engine is a local Docker engine, or one that speaks like it, behind its socket. We use two
// of its calls (https://docs.docker.com/reference/api/engine/), so there is no library.
type engine struct {
	c      *Client
	socket string
	http   *http.Transport
}

func (c *Client) engine() (*engine, error) {
	socket, err := c.findEngine()
	if err != nil {
		return nil, err
	}
	d := net.Dialer{}
	return &engine{c, socket, &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		DisableCompression:     true,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 256 << 10,
	}}, nil
}

const remedyEngine = "start it, set DOCKER_HOST to its socket (unix://…), or use `docker save` and docker-archive:FILE"

// findEngine finds the socket as the docker command does, and where Docker Desktop and engines
// without root put it.
func (c *Client) findEngine() (string, error) {
	getenv := c.o.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	if host := getenv("DOCKER_HOST"); host != "" {
		socket, ok := strings.CutPrefix(host, "unix://")
		if !ok || !filepath.IsAbs(socket) {
			return "", machine.Errorf("peer.unavailable", remedyEngine, "DOCKER_HOST is %s, and only a socket of this host can be used", quote(host))
		}
		return socket, nil
	}
	places := []string{"/var/run/docker.sock"}
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		places = append(places, filepath.Join(dir, "docker.sock"))
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		places = append(places, filepath.Join(home, ".docker", "run", "docker.sock"))
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", machine.Errorf("peer.unavailable", remedyEngine, "no Docker engine runs here: there is no %s", places[0])
}

// get asks for a path of the engine's interface.
func (e *engine) get(ctx context.Context, path string) (*response, error) {
	t := e.c.tune
	t.floor = 0 // it packs what it sends, at its own pace
	w := newWatch(ctx, t, t.engine)
	u := url.URL{Scheme: "http", Host: "engine", Path: path}
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		w.stop()
		return nil, err
	}
	resp, err := e.http.RoundTrip(req) //nolint:bodyclose // by response.close
	if err != nil {
		w.stop()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, os.ErrPermission) {
			return nil, machine.Errorf("peer.denied", "join the group of the socket (often \"docker\"), or use `docker save` and docker-archive:FILE", "you may not use the engine at %s", plain(e.socket))
		}
		return nil, machine.Errorf("peer.unavailable", remedyEngine, "asking the engine at %s: %s", plain(e.socket), plain(err.Error()))
	}
	w.touch(0)
	out := &response{Response: resp, watch: w}
	switch resp.StatusCode {
	case http.StatusOK:
		return out, nil
	case http.StatusNotFound:
		out.close()
		return nil, notFoundError("list those it has with `docker images`, or get it with `docker pull`", "the engine has no such image")
	}
	defer out.close()
	var said struct{ Message string }
	if data, err := out.readAll("answer", 64<<10); err == nil {
		_ = json.Unmarshal(data, &said) // only for the message
	}
	return nil, machine.Errorf("peer.invalid", "look at the engine's log", "the engine answers %d: %s", resp.StatusCode, quote(said.Message))
}

// resolveEngine asks what an image is, without having it packed.
func (c *Client) resolveEngine(ctx context.Context, src Source, want Platform) (Image, error) {
	e, err := c.engine()
	if err != nil {
		return Image{}, err
	}
	resp, err := e.get(ctx, "/images/"+src.id+src.ref.String()+"/json")
	if err != nil {
		return Image{}, err
	}
	defer resp.close()
	data, err := resp.readAll("engine's description", maxConfig)
	if err != nil {
		return Image{}, err
	}
	return readInspect(data, want)
}

func readInspect(data []byte, want Platform) (Image, error) {
	fail := func(err error) (Image, error) {
		if machine.CodeOf(err) == "" {
			err = machine.Errorf("peer.invalid", "look at the engine's log", "reading the engine's answer: %w", err)
		}
		return Image{}, err
	}
	o, err := parseDocument(data, "Id", "Os", "Architecture", "Variant", "Config", "RootFS", "Created")
	if err != nil {
		return fail(err)
	}
	var img Image
	if err := firstError(o.get("Id", &img.ConfigDigest), o.get("Os", &img.Platform.OS), o.get("Architecture", &img.Platform.Arch), o.get("Variant", &img.Platform.Variant)); err != nil {
		return fail(err)
	}
	if err := checkDigest(img.ConfigDigest); err != nil {
		return fail(err)
	}
	if o.has("Config") {
		if err := img.Config.read(o["Config"]); err != nil {
			return fail(err)
		}
	}
	if err := o.get("Created", &img.Config.Created); err != nil {
		return fail(err)
	}
	var diffIDs []string
	if o.has("RootFS") {
		r, err := parseObject(o["RootFS"], "Layers")
		if err == nil {
			err = r.get("Layers", &diffIDs)
		}
		if err != nil {
			return fail(err)
		}
	}
	layers := make([]Layer, min(len(diffIDs), maxLayers+1))
	for i := range layers {
		if err := checkDigest(diffIDs[i]); err != nil {
			return fail(err)
		}
		layers[i].Size = UnknownSize
	}
	if err := img.setLayers(layers, diffIDs[:len(layers)]); err != nil {
		return Image{}, err
	}
	if img.Platform.rank(want) == 0 {
		return Image{}, platformError(want, []Platform{img.Platform})
	}
	img.Platform = img.Platform.normal()
	return img, nil
}

// fetchEngine has the engine pack the image and takes the layers out of the stream. Which files
// are layers is known at its end only.
func (c *Client) fetchEngine(ctx context.Context, img Image, blobs *Blobs, progress Progress) (Image, error) {
	if out, ok, err := img.fromBlobs(ctx, blobs); err != nil || ok {
		progress(out.Size, out.Size)
		return out, err
	}
	e, err := c.engine()
	if err != nil {
		return Image{}, err
	}
	// By its id: the name may mean another image by now.
	resp, err := e.get(ctx, "/images/"+img.ConfigDigest+"/get")
	if err != nil {
		return Image{}, err
	}
	defer resp.close()
	count := &counter{total: UnknownSize, tell: progress}
	s, err := scanSaved(ctx, readerWith(ctx, resp), func(name string, size int64, r io.Reader) (string, bool, error) {
		if !strings.HasSuffix(name, "/layer.tar") && !strings.HasPrefix(name, layoutBlobs) {
			return "", false, nil
		}
		return blobs.take(ctx, size, r, count)
	})
	if again, ok := errors.AsType[retryable](err); ok {
		err = again.error
	}
	if err != nil {
		return Image{}, err
	}
	got, err := s.image(ctx, Source{kind: kindSaved}, img.Platform)
	if err != nil {
		return Image{}, err
	}
	if !s.isImage(img.ConfigDigest, got.ConfigDigest) {
		return Image{}, digestError("the engine sends another image than %s", shortDigest(img.ConfigDigest))
	}
	if !slices.EqualFunc(img.Layers, got.Layers, func(a, b Layer) bool { return a.DiffID == b.DiffID }) {
		return Image{}, machine.Errorf("integrity.diffid", "look at the engine's log", "the engine sends other layers than it spoke of")
	}
	if err := got.taken(s); err != nil {
		return Image{}, err
	}
	got.Ref, got.source, got.ConfigDigest = img.Ref, img.source, img.ConfigDigest
	return got, nil
}

// isImage reports whether an engine's id is that of what it sent: the digest of the
// configuration, or, if the engine keeps images as containerd does, of the manifest or index.
func (s *saved) isImage(id, config string) bool {
	if id == config {
		return true
	}
	doc, err := readDocument(s.docs[layoutIndex], typeOCIIndex)
	return err == nil && slices.ContainsFunc(doc.manifests, func(d descriptor) bool { return d.digest == id })
}
