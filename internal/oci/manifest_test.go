package oci

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestBadManifests are refused with a code each, before anything they point to is asked for
// (A034, A035, A064, A068).
func TestBadManifests(t *testing.T) {
	t.Parallel()
	good := makeImage(t, 1000, 2000)
	config := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, typeOCIConfig, digestOf(good.config), len(good.config))
	layer := func(i int) string {
		l := good.layers[i]
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, l.MediaType, l.Digest, l.Size)
	}
	both := layer(0) + "," + layer(1)
	manifest := func(config, layers string) string {
		return `{"schemaVersion":2,"config":` + config + `,"layers":[` + layers + `]}`
	}
	withDigest := func(d string) string {
		return manifest(config, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%s,"size":1},`, asJSON(t, d))+layer(1))
	}
	hex := strings.Repeat("a", 64)
	for name, test := range map[string]struct{ manifest, code string }{
		"good":               {manifest(config, both), ""},
		"no layers":          {manifest(config, ""), "image.no_layers"},
		"one layer missing":  {manifest(config, layer(0)), "integrity.diffid"},
		"one layer more":     {manifest(config, both+","+layer(0)), "integrity.diffid"},
		"10000 layers":       {manifest(config, strings.TrimSuffix(strings.Repeat(layer(0)+",", 10_000), ",")), "image.limit"},
		"1000 times one":     {manifest(config, strings.TrimSuffix(strings.Repeat(layer(0)+",", 1000), ",")), "image.limit"},
		"two sizes":          {manifest(config, layer(0)+","+strings.Replace(layer(0), `"size":`, `"size":1`, 1)), "manifest.invalid"},
		"huge":               {manifest(config, layer(0)+","+strings.Replace(layer(1), `"size":`, `"size":9999999999`, 1)), "image.limit"},
		"no size":            {manifest(config, layer(0)+","+strings.Replace(layer(1), `"size"`, `"syze"`, 1)), "manifest.invalid"},
		"negative":           {manifest(config, layer(0)+","+strings.Replace(layer(1), `"size":`, `"size":-`, 1)), "manifest.invalid"},
		"2^64":               {manifest(config, layer(0)+","+strings.Replace(layer(1), `"size":`, `"size":99999999999999999999`, 1)), "manifest.invalid"},
		"float":              {manifest(config, layer(0)+","+strings.Replace(layer(1), `"size":`, `"size":0.5e`, 1)), "manifest.invalid"},
		"two keys":           {strings.Replace(manifest(config, both), `"layers"`, `"layers":[],"layers"`, 1), "manifest.invalid"},
		"a twin":             {strings.Replace(manifest(config, both), `"layers"`, `"Layers":[],"layers"`, 1), "manifest.invalid"},
		"a twin below":       {manifest(config, layer(0)+","+strings.Replace(layer(1), `"size"`, `"Size":1,"size"`, 1)), "manifest.invalid"},
		"more behind":        {manifest(config, both) + "{}", "manifest.invalid"},
		"cut":                {strings.TrimSuffix(manifest(config, both), "}"), "manifest.invalid"},
		"empty":              {"", "manifest.invalid"},
		"a list":             {"[]", "manifest.invalid"},
		"null":               {"null", "manifest.invalid"},
		"no UTF-8":           {strings.Replace(manifest(config, both), `{`, "{\"\xff\":1,", 1), "manifest.invalid"},
		"deep":               {strings.Replace(manifest(config, both), `{`, `{"x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+",", 1), "manifest.invalid"},
		"nested 100":         {strings.Replace(manifest(config, both), `{`, `{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+",", 1), "manifest.invalid"},
		"index and image":    {strings.Replace(manifest(config, both), `{`, `{"manifests":[],`, 1), "manifest.invalid"},
		"neither":            {`{"schemaVersion":2}`, "manifest.invalid"},
		"index by type":      {strings.Replace(manifest(config, both), `{`, `{"mediaType":"`+typeOCIIndex+`",`, 1), "manifest.invalid"},
		"version 3":          {strings.Replace(manifest(config, both), `:2`, `:3`, 1), "manifest.invalid"},
		"schema 1":           {`{"schemaVersion":1,"name":"app","tag":"1","fsLayers":[{"blobSum":"sha256:` + hex + `"}],"history":[]}`, "image.old"},
		"chart":              {manifest(strings.Replace(config, typeOCIConfig, "application/vnd.cncf.helm.config.v1+json", 1), both), "image.kind"},
		"encrypted":          {manifest(config, strings.ReplaceAll(both, "tar+gzip", "tar+gzip+encrypted")), "image.kind"},
		"big config":         {manifest(strings.Replace(config, `"size":`, `"size":99999`, 1), both), "manifest.limit"},
		"config of no size":  {manifest(strings.Replace(config, `"size":`, `"size":1`, 1), both), "integrity.size"},
		"config not there":   {manifest(strings.Replace(config, digestOf(good.config), "sha256:"+hex, 1), both), "peer.lied"},
		"digest: escape":     {withDigest("sha256:../../x"), "digest.invalid"},
		"digest: upper case": {withDigest("sha256:" + strings.ToUpper(hex)), "digest.invalid"},
		"digest: short":      {withDigest("sha256:" + hex[1:]), "digest.invalid"},
		"digest: long":       {withDigest("sha256:a" + hex), "digest.invalid"},
		"digest: md5":        {withDigest("md5:" + hex[:32]), "digest.invalid"},
		"digest: sha512":     {withDigest("sha512:" + hex + hex), "digest.invalid"},
		"digest: empty":      {withDigest(""), "digest.invalid"},
		"digest: 10 KiB":     {withDigest("sha256:" + strings.Repeat("a", 10<<10)), "digest.invalid"},
		"digest: newline":    {withDigest("sha256:" + hex + "\n"), "digest.invalid"},
		"digest: NUL":        {withDigest("sha256:" + hex[1:] + "\x00"), "digest.invalid"},
		"5 MiB":              {manifest(config, both) + strings.Repeat(" ", 5<<20), "manifest.limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content := &content{blobs: good.blobs, manifest: []byte(test.manifest)}
			s := newSite(t, content)
			_, err := newClient(t).Resolve(t.Context(), s.source(t, ":1"), amd64)
			wantCode(t, err, test.code)
			if got := s.asked(".."); len(got) > 0 {
				t.Errorf("asked for %q", got)
			}
		})
	}
}

// TestForeignURLs: where a layer claims to be is nowhere we go (A066).
func TestForeignURLs(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	content.layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	content.seal(t, amd64)
	bait := newSite(t, content)
	content.manifest = []byte(strings.Replace(string(content.manifest), `"size"`, `"urls":["`+bait.URL+`/v2/app/blobs/x"],"size"`, 2))
	s := newSite(t, content)
	b := newBlobs(t)
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
	if got := bait.asked(""); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// TestEndlessManifest is cut at its limit, with a length and without (A064).
func TestEndlessManifest(t *testing.T) {
	t.Parallel()
	for _, length := range []string{"", "1073741824"} {
		s := newSite(t, makeImage(t, 1))
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					break
				}
			}
			return true
		}
		_, err := newClient(t).Resolve(t.Context(), s.source(t, ":1"), amd64)
		wantCode(t, err, "manifest.limit")
		s.Close() // waits for the handler
		if s.bytes() > 64<<20 {
			t.Errorf("%d bytes were sent", s.bytes())
		}
	}
}

// index makes an index of what it is given: digest, media type and platform of each.
func (c *content) index(t *testing.T, entries ...any) string {
	t.Helper()
	c.manifest = asJSON(t, map[string]any{"schemaVersion": 2, "mediaType": typeOCIIndex, "manifests": entries})
	return c.put(c.manifest)
}

func (c *content) entry(digest, mediaType string, p *Platform) map[string]any {
	e := map[string]any{"digest": digest, "mediaType": mediaType, "size": len(c.blobs[digest])}
	if p != nil {
		e["platform"] = map[string]any{"os": p.OS, "architecture": p.Arch, "variant": p.Variant}
	}
	return e
}

// indexSite serves the newest manifest as what it is.
func indexSite(t *testing.T, c *content) *site {
	t.Helper()
	s := newSite(t, c)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		data, ok := c.blobs[name]
		if name == "1" {
			data, ok = c.manifest, true
		}
		if !ok || !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		var m struct{ MediaType string }
		_ = json.Unmarshal(data, &m)
		w.Header().Set("Content-Type", m.MediaType)
		_, _ = w.Write(data)
		return true
	}
	return s
}

func TestIndexes(t *testing.T) {
	t.Parallel()
	c := makeImage(t, 100)
	image := c.digest()
	inner := c.index(t, c.entry(image, typeOCIManifest, &amd64))
	t.Run("one in another", func(t *testing.T) {
		c.index(t, c.entry(inner, typeOCIIndex, nil))
		img, err := newClient(t).Resolve(t.Context(), indexSite(t, c).source(t, ":1"), amd64)
		must(t, err)
		if img.Digest != image {
			t.Errorf("found %s", img.Digest)
		}
	})
	t.Run("too deep", func(t *testing.T) {
		d := inner
		for range 1000 {
			d = c.index(t, c.entry(d, typeOCIIndex, nil))
		}
		s := indexSite(t, c)
		_, err := newClient(t).Resolve(t.Context(), s.source(t, ":1"), amd64)
		wantCode(t, err, "manifest.limit")
		if n := len(s.asked("")); n > 3 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("too wide", func(t *testing.T) {
		var all []any
		for range 1000 {
			all = append(all, c.entry(inner, typeOCIIndex, nil))
		}
		c.index(t, all...)
		_, err := newClient(t).Resolve(t.Context(), indexSite(t, c).source(t, ":1"), Platform{OS: "linux", Arch: "s390x"})
		wantCode(t, err, "manifest.limit")
	})
	t.Run("an index called an image", func(t *testing.T) {
		c.index(t, c.entry(inner, typeOCIManifest, &amd64))
		_, err := newClient(t).Resolve(t.Context(), indexSite(t, c).source(t, ":1"), amd64)
		wantCode(t, err, "manifest.invalid")
	})
	t.Run("of another platform than it says", func(t *testing.T) {
		c.index(t, c.entry(image, typeOCIManifest, &Platform{OS: "linux", Arch: "arm64"}))
		_, err := newClient(t).Resolve(t.Context(), indexSite(t, c).source(t, ":1"), Platform{OS: "linux", Arch: "arm64"})
		wantCode(t, err, "image.platform")
	})
	t.Run("attestations", func(t *testing.T) {
		c.index(t, c.entry(image, typeOCIManifest, &Platform{OS: "unknown", Arch: "unknown"}), c.entry(image, typeOCIManifest, &amd64),
			c.entry(image, "application/spdx+json", nil))
		_, err := newClient(t).Resolve(t.Context(), indexSite(t, c).source(t, ":1"), amd64)
		must(t, err)
	})
	t.Run("one without a platform", func(t *testing.T) {
		c.index(t, c.entry(image, typeOCIManifest, nil))
		_, err := newClient(t).Resolve(t.Context(), indexSite(t, c).source(t, ":1"), amd64)
		must(t, err)
	})
	t.Run("wrong bytes", func(t *testing.T) {
		e := c.entry(image, typeOCIManifest, &amd64)
		c.index(t, e)
		s := indexSite(t, c)
		honest := s.before
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, image) {
				_, _ = w.Write([]byte(strings.Replace(string(c.blobs[image]), ":2", ": 2", 1)))
				return true
			}
			return honest(w, r)
		}
		_, err := newClient(t).Resolve(t.Context(), s.source(t, ":1"), amd64)
		wantCode(t, err, "integrity.digest")
	})
	t.Run("wrong bytes of the configuration", func(t *testing.T) {
		c.index(t, c.entry(image, typeOCIManifest, &amd64))
		s := indexSite(t, c)
		honest := s.before
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, digestOf(c.config)) {
				_, _ = w.Write([]byte(strings.Replace(string(c.config), "7:8", "0:0", 1)))
				return true
			}
			return honest(w, r)
		}
		_, err := newClient(t).Resolve(t.Context(), s.source(t, ":1"), amd64)
		wantCode(t, err, "integrity.digest")
	})
	t.Run("a wrong promise", func(t *testing.T) {
		s := indexSite(t, c)
		honest := s.before
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
			return honest(w, r)
		}
		_, err := newClient(t).Resolve(t.Context(), s.source(t, ":1"), amd64)
		wantCode(t, err, "integrity.digest")
	})
}

func TestBadConfigs(t *testing.T) {
	t.Parallel()
	diffID := "sha256:" + strings.Repeat("0", 64)
	for name, test := range map[string]struct{ config, code string }{
		"least":            {`{"os":"linux","architecture":"amd64"}`, ""},
		"nulls":            {`{"os":"linux","architecture":"amd64","config":{"Cmd":null,"Volumes":null,"Labels":null},"rootfs":{"diff_ids":null}}`, ""},
		"unknown":          {`{"os":"linux","future":{"x":[1]},"config":{"Future":1}}`, ""},
		"twice":            {`{"os":"linux","os":"windows"}`, "manifest.invalid"},
		"twin":             {`{"os":"linux","OS":"windows"}`, "manifest.invalid"},
		"twin in config":   {`{"config":{"Env":[],"env":[]}}`, "manifest.invalid"},
		"env is text":      {`{"config":{"Env":"A=1"}}`, "manifest.invalid"},
		"config is a list": {`{"config":[]}`, "manifest.invalid"},
		"NUL in env":       {`{"config":{"Env":["A=\u0000"]}}`, "manifest.invalid"},
		"NUL in label":     {`{"config":{"Labels":{"a":"\u0000"}}}`, "manifest.invalid"},
		"NUL in volume":    {`{"config":{"Volumes":{"/\u0000":{}}}}`, "manifest.invalid"},
		"bad diffID":       {`{"rootfs":{"diff_ids":["` + diffID + `","sha256:../../x"]}}`, "digest.invalid"},
		"huge number":      {`{"config":{"Healthcheck":{"Interval":1e400}}}`, "manifest.invalid"},
	} {
		_, _, _, err := readConfig([]byte(test.config))
		if got := machine.CodeOf(err); got != test.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "linux/aarch64": "linux/arm64", "arm64/v8": "", "linux/arm64/v8": "linux/arm64",
		"linux/arm": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "": "", "linux/": "", "a/b/c/d": "", "linux/AMD64": "", "linux/a\x1b": "",
	} {
		p, err := ParsePlatform(s)
		switch {
		case want == "" && s != "arm64/v8":
			wantCode(t, err, "input.platform")
		case want != "" && (err != nil || p.String() != want):
			t.Errorf("%s: %s, %v", s, p, err)
		}
	}
	for _, test := range []struct {
		want   string
		there  []string
		chosen int // -1: none
	}{
		{"linux/arm64", []string{"linux/amd64", "linux/arm64/v8"}, 1},
		{"linux/arm64/v8", []string{"linux/arm64"}, 0},
		{"linux/arm/v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm/v8"}, 1},
		{"linux/arm/v6", []string{"linux/arm/v7", "linux/arm/v5"}, 1},
		{"linux/amd64", []string{"linux/amd64/v3", "linux/amd64"}, 1},
		{"linux/amd64", []string{"linux/amd64/v3"}, -1},
		{"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v4"}, 1},
		{"linux/amd64", []string{"windows/amd64", "linux/arm64"}, -1},
	} {
		best, chosen := 0, -1
		want, err := ParsePlatform(test.want)
		must(t, err)
		for i, s := range test.there {
			parts := strings.Split(s+"/", "/")
			if r := (Platform{parts[0], parts[1], parts[2]}).rank(want); r > best {
				best, chosen = r, i
			}
		}
		if chosen != test.chosen {
			t.Errorf("%s of %v: %d", test.want, test.there, chosen)
		}
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("0", 64)
	for s, want := range map[string]string{
		"redis":                                    "docker.io/library/redis:latest",
		"redis:7":                                  "docker.io/library/redis:7",
		"bitnami/redis":                            "docker.io/bitnami/redis:latest",
		"docker.io/library/redis:7":                "docker.io/library/redis:7",
		"index.docker.io/redis":                    "docker.io/library/redis:latest",
		"docker://ghcr.io/a/b/c:x":                 "ghcr.io/a/b/c:x",
		"localhost/app":                            "localhost/app:latest",
		"localhost:5000/x@sha256:" + hex:           "localhost:5000/x@sha256:" + hex,
		"localhost:5000/x:1@sha256:" + hex:         "localhost:5000/x@sha256:" + hex,
		"[::1]:5000/x":                             "[::1]:5000/x:latest",
		"Example.COM/x":                            "example.com/x:latest",
		"oci:dir":                                  "oci:dir",
		"oci:/a/b:tag":                             "oci:/a/b:tag",
		"oci-layout:dir:1":                         "oci:dir:1",
		"oci-archive:f.tar":                        "oci-archive:f.tar",
		"docker-archive:f.tar":                     "docker-archive:f.tar",
		"docker-archive:f.tar:redis:7":             "docker-archive:f.tar:docker.io/library/redis:7",
		"docker-daemon:redis":                      "docker-daemon:docker.io/library/redis:latest",
		"docker-daemon:sha256:" + hex:              "docker-daemon:sha256:" + hex,
		"a..b/c":                                   "!image.name",
		"localhost:5000/../../etc":                 "!image.name",
		"localhost:5000/a//b":                      "!image.name",
		"localhost:99999/a":                        "!image.name",
		"localhost:/a":                             "!image.name",
		"localhost:0/a":                            "!image.name",
		"user@host/a":                              "!digest.invalid",
		"a:b@sha256:x":                             "!digest.invalid",
		"a@sha256:" + strings.ToUpper(hex[1:]+"a"): "!digest.invalid",
		"a@":                            "!digest.invalid",
		"":                              "!image.name",
		"Host/a":                        "!image.name",
		"UPPER":                         "!image.name",
		"a:":                            "!image.name",
		"a:-x":                          "!image.name",
		"a/b?c":                         "!image.name",
		"a/b#c":                         "!image.name",
		"a/%2e%2e":                      "!image.name",
		"[::1%25lo]/a":                  "!image.name",
		"[1.2.3.4]/a":                   "!image.name",
		"-a.b/c":                        "!image.name",
		"a\x00b":                        "!image.name",
		"a\nb":                          "!image.name",
		"\u202ea":                       "!image.name",
		strings.Repeat("a", 5000):       "!image.name",
		strings.Repeat("a/", 200) + "a": "!image.name",
		"oci:":                          "!image.name",
		"docker-archive::redis":         "!image.name",
		"docker-daemon:sha256:x":        "!digest.invalid",
		"docker-daemon:":                "!image.name",
		"docker://":                     "!image.name",
		"https://ghcr.io/a":             "!image.name",
	} {
		src, err := ParseSource(s)
		if code, ok := strings.CutPrefix(want, "!"); ok {
			wantCode(t, err, code)
			continue
		}
		if err != nil || src.String() != want {
			t.Errorf("%s: %s, %v", s, src, err)
		}
	}
}
