package oci

import (
	"context"
	"net/http"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// resolveRegistry asks for the tag (or digest) once; the rest goes by digest.
func (c *Client) resolveRegistry(ctx context.Context, ref reference, want Platform) (Image, error) {
	r := c.registry(ref)
	data, root, err := r.document(ctx, ref.target())
	if err != nil {
		return Image{}, err
	}
	return resolve(ctx, r, root, data, want)
}

// document fetches a manifest or index by tag or digest. What it says of its own digest is
// compared with its bytes.
func (r *registry) document(ctx context.Context, target string) ([]byte, descriptor, error) {
	header := http.Header{"Accept": {strings.Join([]string{typeOCIIndex, typeV2List, typeOCIManifest, typeV2Manifest}, ", ")}}
	var data []byte
	var root descriptor
	err := r.c.try(ctx, func() error {
		resp, err := r.get(ctx, r.url("manifests", target), header)
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusNotFound {
			resp.close()
			return notFoundError("check the name and the tag", "%s has no such image", plain(r.ref.host))
		}
		if resp.StatusCode != http.StatusOK {
			return r.statusError(resp, "the image")
		}
		defer resp.close()
		if data, err = resp.readAll("manifest", maxManifest); err != nil {
			return err
		}
		root = descriptor{mediaType: resp.Header.Get("Content-Type"), digest: digestOf(data), size: int64(len(data))}
		if said := resp.Header.Get("Docker-Content-Digest"); strings.HasPrefix(said, digestPrefix) && said != root.digest {
			return digestError("the registry says that the manifest is %s, and sends %s", shortDigest(said), shortDigest(root.digest))
		}
		return nil
	})
	if err == nil && strings.HasPrefix(target, digestPrefix) {
		err = checkContent("manifest", data, target)
	}
	return data, root, err
}

// manifest implements library.
func (r *registry) manifest(ctx context.Context, d descriptor) ([]byte, error) {
	if d.size > maxManifest {
		return nil, limitError("the manifest has %d bytes, at most %d are allowed", d.size, maxManifest)
	}
	data, _, err := r.document(ctx, d.digest)
	if machine.CodeOf(err) == "image.not_found" {
		return nil, liedError("manifest", d.digest)
	}
	if err == nil {
		err = checkSize("manifest", data, d)
	}
	return data, err
}

// config implements library.
func (r *registry) config(ctx context.Context, d descriptor) ([]byte, error) {
	var data []byte
	err := r.c.try(ctx, func() error {
		resp, err := r.get(ctx, r.url("blobs", d.digest), http.Header{})
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusNotFound {
			resp.close()
			return liedError("configuration", d.digest)
		}
		if resp.StatusCode != http.StatusOK {
			return r.statusError(resp, "the image's configuration")
		}
		defer resp.close()
		data, err = resp.readAll("image's configuration", maxConfig)
		return err
	})
	if err == nil {
		err = checkSize("image's configuration", data, d)
	}
	if err == nil {
		err = checkContent("image's configuration", data, d.digest)
	}
	return data, err
}

func checkSize(what string, data []byte, d descriptor) error {
	if int64(len(data)) != d.size {
		return sizeError("the %s has %d bytes, %d were promised", what, len(data), d.size)
	}
	return nil
}

func sizeError(format string, args ...any) error {
	return machine.Errorf("integrity.size", "fetch it again; if it stays so, "+remedyPublisher, format, args...)
}

// liedError is of a registry that has an image and not what is in it.
func liedError(what, digest string) error {
	return machine.Errorf("peer.lied", "whoever publishes the image should push it again", "the registry has the image and not its %s %s", what, shortDigest(digest))
}
