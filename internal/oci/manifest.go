package oci

import (
	"maps"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Media types, of https://github.com/opencontainers/image-spec/blob/main/media-types.md and of
// https://distribution.github.io/distribution/spec/manifest-v2-2/.
const (
	typeOCIIndex      = "application/vnd.oci.image.index.v1+json"
	typeOCIManifest   = "application/vnd.oci.image.manifest.v1+json"
	typeOCIConfig     = "application/vnd.oci.image.config.v1+json"
	typeV2List        = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeV2Manifest    = "application/vnd.docker.distribution.manifest.v2+json"
	typeV2Config      = "application/vnd.docker.container.image.v1+json"
	typeSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	typeSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

const (
	maxManifest = 4 << 20
	maxConfig   = 8 << 20
)

// descriptor points from one document to another or to a layer. Its "urls" are never read: they
// would send us, and whatever we would say there, to a host that the user has not named
// (CVE-2020-15157).
type descriptor struct {
	mediaType string
	digest    string
	size      int64
	platform  *Platform
	name      string // in a layout
}

// document is an index or a manifest: exactly one of the two halves is filled.
type document struct {
	isIndex   bool
	manifests []descriptor

	config descriptor
	layers []descriptor
}

// readDocument reads an index or a manifest. said is the media type by which it came, "" or
// anything that is none of ours when there was none.
func readDocument(data []byte, said string) (document, error) {
	var d document
	o, err := parseDocument(data, "schemaVersion", "mediaType", "manifests", "config", "layers", "fsLayers", "urls")
	if err != nil {
		return d, invalidError("reading the manifest: %w", err)
	}
	var version int
	var own string
	if err := firstError(o.get("schemaVersion", &version), o.get("mediaType", &own)); err != nil {
		return d, invalidError("reading the manifest: %w", err)
	}
	if version == 1 || o.has("fsLayers") || own == typeSchema1 || own == typeSchema1Signed {
		return d, machine.Errorf("image.old", "push it again with a Docker of this decade, or use another image",
			"the image has a manifest of the first version, which neither we nor today's engines read")
	}
	if version != 2 {
		return d, invalidError("a manifest of version %d, not 2", version)
	}
	d.isIndex = o.has("manifests")
	if d.isIndex == (o.has("layers") || o.has("config")) {
		return d, invalidError("the manifest is neither clearly an index nor clearly an image")
	}
	// A document that is one thing by its header and another by its content is read differently
	// by different programs (CVE-2021-41190).
	for _, t := range []string{said, own} {
		isIndex, ours := kindOf(t)
		if ours && isIndex != d.isIndex {
			return d, invalidError("the manifest is not what its type %s says", quote(t))
		}
	}
	if d.isIndex {
		d.manifests, err = readDescriptors(o, "manifests")
		return d, err
	}
	if d.config, err = readDescriptor(o["config"]); err != nil {
		return d, err
	}
	d.layers, err = readDescriptors(o, "layers")
	return d, err
}

// kindOf says which of our two kinds of document a media type is.
func kindOf(mediaType string) (isIndex, ours bool) {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	switch strings.TrimSpace(mediaType) {
	case typeOCIIndex, typeV2List:
		return true, true
	case typeOCIManifest, typeV2Manifest:
		return false, true
	}
	return false, false
}

func readDescriptors(o object, key string) ([]descriptor, error) {
	var list []rawMessage
	if err := o.get(key, &list); err != nil {
		return nil, invalidError("reading the manifest: %w", err)
	}
	if key == "layers" && len(list) > maxLayers {
		return nil, imageLimitError("%d layers, at most %d are allowed", len(list), maxLayers)
	}
	out := make([]descriptor, 0, len(list))
	for _, raw := range list {
		d, err := readDescriptor(raw)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func readDescriptor(raw rawMessage) (descriptor, error) {
	var d descriptor
	o, err := parseObject(raw, "mediaType", "digest", "size", "platform", "urls", "annotations")
	if err != nil {
		return d, invalidError("reading the manifest: what points to something else: %w", err)
	}
	d.size = -1
	var notes map[string]string
	err = firstError(o.get("mediaType", &d.mediaType), o.get("digest", &d.digest), o.get("size", &d.size), o.get("annotations", &notes))
	if err != nil {
		return d, invalidError("reading the manifest: %w", err)
	}
	d.name = notes["org.opencontainers.image.ref.name"]
	if err := checkDigest(d.digest); err != nil {
		return d, err
	}
	if d.size < 0 {
		return d, invalidError("%s has no size, or a negative one", shortDigest(d.digest))
	}
	if !o.has("platform") {
		return d, nil
	}
	p, err := parseObject(o["platform"], "os", "architecture", "variant")
	if err != nil {
		return d, invalidError("reading the manifest: a platform: %w", err)
	}
	d.platform, err = readPlatform(p)
	return d, err
}

func readPlatform(o object) (*Platform, error) {
	var p Platform
	if err := firstError(o.get("os", &p.OS), o.get("architecture", &p.Arch), o.get("variant", &p.Variant)); err != nil {
		return nil, invalidError("reading a platform: %w", err)
	}
	return &p, nil
}

// checkKinds refuses what is stored as an image and is none: charts, signatures, attestations,
// encrypted layers.
func (d *document) checkKinds() error {
	switch d.config.mediaType {
	case typeOCIConfig, typeV2Config:
	default:
		return kindError("it is not a container image but %s", quote(d.config.mediaType))
	}
	for _, l := range d.layers {
		base, compression, _ := strings.Cut(l.mediaType, "+")
		switch base {
		case "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar",
			"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar":
			if compression == "" || compression == "gzip" || compression == "zstd" {
				continue
			}
		case "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd",
			"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
			if compression == "" {
				continue
			}
		}
		return kindError("a layer of the kind %s", quote(l.mediaType))
	}
	return nil
}

func kindError(format string, args ...any) error {
	return machine.Errorf("image.kind", "use an image of a file system", format, args...)
}

// readConfig reads an image's configuration: its platform, what it says of its program, and the
// digests of its layers without compression.
func readConfig(data []byte) (Platform, Config, []string, error) {
	fail := func(err error) (Platform, Config, []string, error) {
		if machine.CodeOf(err) == "" {
			err = invalidError("reading the image's configuration: %w", err)
		}
		return Platform{}, Config{}, nil, err
	}
	o, err := parseDocument(data, "architecture", "os", "variant", "config", "rootfs", "created")
	if err != nil {
		return fail(err)
	}
	p, err := readPlatform(o)
	if err != nil {
		return fail(err)
	}
	var c Config
	if err := o.get("created", &c.Created); err != nil {
		return fail(err)
	}
	if o.has("config") {
		if err := c.read(o["config"]); err != nil {
			return fail(err)
		}
	}
	var diffIDs []string
	if o.has("rootfs") {
		r, err := parseObject(o["rootfs"], "type", "diff_ids")
		if err != nil {
			return fail(err)
		}
		if err := r.get("diff_ids", &diffIDs); err != nil {
			return fail(err)
		}
	}
	for _, d := range diffIDs {
		if err := checkDigest(d); err != nil {
			return fail(err)
		}
	}
	return *p, c, diffIDs, nil
}

// read fills c from the "config" of an image's configuration.
func (c *Config) read(raw rawMessage) error {
	o, err := parseObject(raw, "Entrypoint", "Cmd", "Env", "User", "WorkingDir", "StopSignal", "ExposedPorts", "Volumes",
		"Labels", "Healthcheck")
	if err != nil {
		return err
	}
	var ports, volumes map[string]rawMessage
	err = firstError(o.get("Entrypoint", &c.Entrypoint), o.get("Cmd", &c.Cmd), o.get("Env", &c.Env), o.get("User", &c.User),
		o.get("WorkingDir", &c.WorkingDir), o.get("StopSignal", &c.StopSignal), o.get("Labels", &c.Labels),
		o.get("ExposedPorts", &ports), o.get("Volumes", &volumes))
	if err != nil {
		return err
	}
	c.ExposedPorts, c.Volumes = sortedKeys(ports), sortedKeys(volumes)
	if o.has("Healthcheck") {
		c.Healthcheck = &Healthcheck{}
		if err := c.Healthcheck.read(o["Healthcheck"]); err != nil {
			return err
		}
	}
	return c.checkText()
}

func (h *Healthcheck) read(raw rawMessage) error {
	o, err := parseObject(raw, "Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
	if err != nil {
		return err
	}
	return firstError(o.get("Test", &h.Test), o.get("Interval", &h.Interval), o.get("Timeout", &h.Timeout),
		o.get("StartPeriod", &h.StartPeriod), o.get("StartInterval", &h.StartInterval), o.get("Retries", &h.Retries))
}

// checkText refuses NUL bytes: no argument, path or environment entry can have one.
func (c *Config) checkText() error {
	all := [][]string{
		{c.User, c.WorkingDir, c.StopSignal, c.Created},
		c.Entrypoint, c.Cmd, c.Env, c.ExposedPorts, c.Volumes, sortedKeys(c.Labels), slices.Collect(maps.Values(c.Labels)),
	}
	if c.Healthcheck != nil {
		all = append(all, c.Healthcheck.Test)
	}
	for _, list := range all {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return invalidError("the image's configuration has a NUL byte in %s", quote(s))
			}
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
