package oci

import (
	"bytes"
	"context"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// wantOurs checks that an error is one for users.
func wantOurs(t *testing.T, err error) {
	t.Helper()
	if err != nil && machine.CodeOf(err) == "" {
		t.Fatalf("an error without a code: %v", err)
	}
}

func FuzzParseSource(f *testing.F) {
	for _, s := range []string{"redis", "docker.io/library/redis:7", "localhost:5000/x@sha256:" + strings.Repeat("0", 64), "oci:d:t", "docker-archive:f:r:t", "[::1]:5/x", "a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		src, err := ParseSource(s)
		wantOurs(t, err)
		if err != nil {
			return
		}
		again, err := ParseSource(src.String())
		if src.kind == kindRegistry || src.kind == kindEngine {
			if err != nil || again != src {
				t.Fatalf("%q becomes %q, which is %+v: %v", s, src, again, err)
			}
		}
		if src.kind != kindRegistry {
			return
		}
		u := New(Options{}).registry(src.ref).url("manifests", src.ref.target())
		parsed, err := url.Parse(u.String())
		if err != nil || parsed.Host != u.Host || parsed.Path != u.Path || parsed.RawQuery != "" || strings.Contains(u.Path, "..") || parsed.User != nil {
			t.Fatalf("%q makes the address %q", s, u)
		}
	})
}

func FuzzManifest(f *testing.F) {
	c := makeImage(f, 10, 20)
	f.Add(c.manifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"` + typeOCIManifest + `","digest":"` + c.digest() + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"schemaVersion":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := readDocument(data, "")
		wantOurs(t, err)
		if err != nil {
			return
		}
		for _, e := range append(append(d.layers, d.manifests...), d.config) {
			if e.digest != "" && checkDigest(e.digest) != nil || e.size < 0 {
				t.Fatalf("%+v", e)
			}
		}
		wantOurs(t, d.checkKinds())
		_, err = resolve(context.Background(), savedLayout{&saved{}}, descriptor{}, data, amd64)
		wantOurs(t, err)
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(makeImage(f, 10).config)
	f.Add([]byte(`{"config":{"Env":["\u0000"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, c, diffIDs, err := readConfig(data)
		wantOurs(t, err)
		for _, s := range append(c.Env, c.User) {
			if err == nil && strings.Contains(s, "\x00") {
				t.Fatal("a NUL byte")
			}
		}
		for _, d := range diffIDs {
			if checkDigest(d) != nil {
				t.Fatal(d)
			}
		}
		_, err = readInspect(data, amd64)
		wantOurs(t, err)
	})
}

func FuzzSaved(f *testing.F) {
	c := unpacked(f, 10, 600)
	f.Add(tarOf(f, oldSave(f, c)...))
	f.Add(tarOf(f, newSave(f, c, false)...))
	f.Add(tarOf(f, newSave(f, makeImage(f, 5), true)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := scanSaved(context.Background(), bytes.NewReader(data), func(_ string, _ int64, r io.Reader) (string, bool, error) {
			data, err := io.ReadAll(r)
			if err != nil {
				return "", false, savedError(err)
			}
			return digestOf(data), isPacked(data), nil
		})
		wantOurs(t, err)
		if err != nil {
			return
		}
		for _, k := range []kind{kindSaved, kindOCIArchive} {
			img, err := s.image(context.Background(), Source{kind: k}, amd64)
			wantOurs(t, err)
			if err != nil {
				continue
			}
			if len(img.names) != len(img.Layers) || len(img.Layers) == 0 {
				t.Fatalf("%+v", img)
			}
			wantOurs(t, img.taken(s))
		}
	})
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://a/b",service="s",scope="x\"y"`)
	f.Add(`Basic`)
	f.Fuzz(func(_ *testing.T, s string) { parseChallenge(s) })
}
