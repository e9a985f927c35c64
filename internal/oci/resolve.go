package oci

import (
	"context"
	"encoding/json"

	"github.com/mvmctl/mvmctl/internal/machine"
)

type rawMessage = json.RawMessage

// library gives out verified documents by digest.
type library interface {
	manifest(ctx context.Context, d descriptor) ([]byte, error)
	config(ctx context.Context, d descriptor) ([]byte, error)
}

const (
	maxIndexes = 2  // in each other
	maxNested  = 16 // indexes below one that are looked into
)

// resolve follows a document, whose digest and bytes are known, to the image for a platform.
func resolve(ctx context.Context, lib library, root descriptor, data []byte, want Platform) (Image, error) {
	doc, err := readDocument(data, root.mediaType)
	if err != nil {
		return Image{}, err
	}
	if !doc.isIndex {
		return resolveManifest(ctx, lib, root.digest, doc, want)
	}
	var there []Platform
	img, found, err := resolveIndex(ctx, lib, doc, want, 1, &there)
	if err == nil && !found {
		err = platformError(want, there)
	}
	return img, err
}

// resolveIndex looks for the image in an index, then in the indexes that lie in it.
func resolveIndex(ctx context.Context, lib library, doc document, want Platform, depth int, there *[]Platform) (Image, bool, error) {
	var best *descriptor
	var nested []descriptor
	rank := 0
	for i := range doc.manifests {
		d := &doc.manifests[i]
		if isIndex, ours := kindOf(d.mediaType); !ours {
			continue // something else that is kept beside the images
		} else if isIndex {
			nested = append(nested, *d)
			continue
		}
		if d.platform == nil {
			if len(doc.manifests) == 1 { // the image's own configuration will say
				best, rank = d, 1
			}
			continue
		}
		if d.platform.OS == "unknown" { // BuildKit's attestations
			continue
		}
		*there = append(*there, *d.platform)
		if r := d.platform.rank(want); r > rank {
			best, rank = d, r
		}
	}
	if best != nil {
		data, err := lib.manifest(ctx, *best)
		if err != nil {
			return Image{}, false, err
		}
		next, err := readDocument(data, best.mediaType)
		if err != nil {
			return Image{}, false, err
		}
		img, err := resolveManifest(ctx, lib, best.digest, next, want)
		return img, err == nil, err
	}
	if len(nested) > 0 && depth >= maxIndexes {
		return Image{}, false, limitError("indexes that lie in each other more than %d deep", maxIndexes)
	}
	if len(nested) > maxNested {
		return Image{}, false, limitError("an index with %d others in it", len(nested))
	}
	for _, d := range nested {
		data, err := lib.manifest(ctx, d)
		if err != nil {
			return Image{}, false, err
		}
		next, err := readDocument(data, d.mediaType)
		if err != nil {
			return Image{}, false, err
		}
		img, found, err := resolveIndex(ctx, lib, next, want, depth+1, there)
		if err != nil || found {
			return img, found, err
		}
	}
	return Image{}, false, nil
}

func resolveManifest(ctx context.Context, lib library, digest string, doc document, want Platform) (Image, error) {
	if err := doc.checkKinds(); err != nil {
		return Image{}, err
	}
	if doc.config.size > maxConfig {
		return Image{}, limitError("the image's configuration has %d bytes, at most %d are allowed", doc.config.size, maxConfig)
	}
	data, err := lib.config(ctx, doc.config)
	if err != nil {
		return Image{}, err
	}
	p, c, diffIDs, err := readConfig(data)
	if err != nil {
		return Image{}, err
	}
	img := Image{Digest: digest, ConfigDigest: doc.config.digest, Platform: p.normal(), Config: c}
	layers := make([]Layer, len(doc.layers))
	for i, d := range doc.layers {
		layers[i] = Layer{Digest: d.digest, Size: d.size, MediaType: d.mediaType}
	}
	if err := img.setLayers(layers, diffIDs); err != nil {
		return Image{}, err
	}
	if p.rank(want) == 0 {
		return Image{}, platformError(want, []Platform{p})
	}
	return img, nil
}

func noLayersError() error {
	return machine.Errorf("image.no_layers", remedyPublisher, "the image has no layers: there is nothing to boot")
}

func diffIDError(layers, diffIDs int) error {
	return machine.Errorf("integrity.diffid", remedyPublisher, "the image has %d layers and its configuration speaks of %d", layers, diffIDs)
}
