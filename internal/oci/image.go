package oci

// Image is what a source has to offer for one platform.
type Image struct {
	Ref string // the source, written in full

	// Digest is the manifest's, "" if the source has none (a saved file, an engine).
	Digest       string
	ConfigDigest string
	Platform     Platform
	Config       Config
	Layers       []Layer // the lowest first
	Size         int64   // stored bytes of all layers; UnknownSize if one is unknown

	source Source
	names  []string // of the layers in a saved file
}

// UnknownSize is of what an engine has not written yet.
const UnknownSize = -1

// Layer is one tar file of an image, as it is stored: mostly compressed. Of a saved file or an
// engine Digest and Size are known when Fetch has returned, Digest mostly not before.
type Layer struct {
	Digest    string // "sha256:…" of the stored bytes
	DiffID    string // "sha256:…" of the tar without compression
	Size      int64  // stored bytes
	MediaType string // for people; what it is, its first bytes say
}

// Config is what an image says about the program in it. All of it is text of a stranger, without
// NUL bytes.
type Config struct {
	Entrypoint   []string
	Cmd          []string
	Env          []string
	User         string
	WorkingDir   string
	StopSignal   string
	ExposedPorts []string // sorted: "80/tcp"
	Volumes      []string // sorted
	Labels       map[string]string
	Healthcheck  *Healthcheck
	Created      string // a time, if it is honest
}

// Healthcheck is how an image wants to be looked after; durations are in nanoseconds, 0 means
// the default.
type Healthcheck struct {
	Test          []string // "NONE", or "CMD" or "CMD-SHELL" and a command
	Interval      int64
	Timeout       int64
	StartPeriod   int64
	StartInterval int64
	Retries       int
}

const (
	maxLayers = 500
	maxLayer  = 256 << 30 // bytes stored
)

// setLayers checks the layers of an image and sums them up.
func (img *Image) setLayers(layers []Layer, diffIDs []string) error {
	switch {
	case len(layers) == 0:
		return noLayersError()
	case len(layers) > maxLayers:
		return imageLimitError("%d layers, at most %d are allowed", len(layers), maxLayers)
	case len(layers) != len(diffIDs):
		return diffIDError(len(layers), len(diffIDs))
	}
	img.Layers, img.Size = layers, 0
	sizes := map[string]int64{}
	for i := range layers {
		l := &layers[i]
		l.DiffID = diffIDs[i]
		if l.Size > maxLayer {
			return imageLimitError("a layer of %d bytes, at most %d are allowed", l.Size, int64(maxLayer))
		}
		if size, ok := sizes[l.Digest]; ok && l.Digest != "" && size != l.Size {
			return invalidError("layer %s is there with two sizes", shortDigest(l.Digest))
		}
		sizes[l.Digest] = l.Size
		if l.Size == UnknownSize || img.Size == UnknownSize {
			img.Size = UnknownSize
		} else {
			img.Size += l.Size
		}
	}
	return nil
}
