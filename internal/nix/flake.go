package nix

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Check evaluates everything a flake offers and builds its checks (nix flake check).
func Check(ctx context.Context, o Options) error {
	t, err := o.target()
	if err != nil {
		return err
	}
	if _, err := run(ctx, o, slices.Concat([]string{"flake", "check"}, o.flags(), []string{t.ref})); err != nil {
		return t.explain(ctx, o, err)
	}
	return nil
}

// Metadata is what a flake says of itself.
type Metadata struct {
	Description  string
	URL          string // locked: the same URL is the same source
	Path         string // its source in the Nix store
	Revision     string // of version control; "" when there is none, or with local changes
	LastModified time.Time
	Inputs       map[string]string // direct inputs: name → revision, or hash where there is none
}

// ReadMetadata reads a flake's metadata, and fetches the flake where needed.
func ReadMetadata(ctx context.Context, o Options) (Metadata, error) {
	t, err := o.target()
	if err != nil {
		return Metadata{}, err
	}
	out, err := run(ctx, o, slices.Concat([]string{"flake", "metadata", "--json"}, o.flags(), []string{t.ref}))
	if err != nil {
		return Metadata{}, t.explain(ctx, o, err)
	}
	return parseMetadata(out, t)
}

func parseMetadata(out []byte, t target) (Metadata, error) {
	var raw struct {
		Description  string `json:"description"`
		URL          string `json:"url"`
		Path         string `json:"path"`
		Revision     string `json:"revision"`
		LastModified int64  `json:"lastModified"`
		Locks        struct {
			Root  string `json:"root"`
			Nodes map[string]struct {
				Inputs map[string]json.RawMessage `json:"inputs"` // a node, or a path that it follows
				Locked struct {
					Rev     string `json:"rev"`
					NarHash string `json:"narHash"`
				} `json:"locked"`
			} `json:"nodes"`
		} `json:"locks"`
	}
	if err := json.Unmarshal(out, &raw); err != nil {
		return Metadata{}, machine.Errorf("nix.protocol", "run `"+t.byHand("flake", "metadata", "--json", t.ref)+"` by hand", "nix flake metadata said something that mvmctl does not understand: %w", err)
	}
	m := Metadata{
		Description: clip(clean(raw.Description), 400), URL: clean(raw.URL), Path: clean(raw.Path), Revision: clean(raw.Revision),
		LastModified: time.Unix(raw.LastModified, 0).UTC(), Inputs: map[string]string{},
	}
	for name, ref := range raw.Locks.Nodes[raw.Locks.Root].Inputs {
		var node string
		if json.Unmarshal(ref, &node) != nil {
			continue // it follows another input
		}
		locked := raw.Locks.Nodes[node].Locked
		m.Inputs[clean(name)] = clean(locked.Rev)
		if locked.Rev == "" {
			m.Inputs[clean(name)] = clean(locked.NarHash)
		}
	}
	return m, nil
}

// Profiles returns the names of the packages that a flake has for the guest's system.
func Profiles(ctx context.Context, o Options) ([]string, error) {
	t, err := o.target()
	if err != nil {
		return nil, err
	}
	names, err := t.packages(ctx, o)
	if err != nil {
		return nil, t.explain(ctx, o, err)
	}
	return names, nil
}

// packages asks the flake which packages it has, building nothing.
func (t target) packages(ctx context.Context, o Options) ([]string, error) {
	o.Progress = nil
	out, err := run(ctx, o, slices.Concat([]string{"eval", "--json", "--apply", "builtins.attrNames"}, o.flags(), []string{t.ref + "#packages." + t.system}))
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(out, &names); err != nil {
		return nil, err
	}
	for i, n := range names {
		names[i] = clip(clean(n), 80)
	}
	return names, nil
}
