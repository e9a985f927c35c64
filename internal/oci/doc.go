// Package oci fetches container images: from a registry, an OCI layout, a file that
// `docker save` wrote, or a local Docker engine. It answers what an image is ([Client.Resolve])
// and puts its layers, verified, into a folder of content-addressed files ([Client.Fetch]).
//
// Whatever is at the other end may lie: every size is bounded before it is spent, every digest
// is checked in form before a path or an address is made of it and in value before its bytes
// get their name, credentials go to nobody but the registry that they belong to, and
// what a peer says reaches a terminal escaped. Each refusal has a code of docs/errors.md.
//
// A download that was cut, killed or cancelled leaves a partial file that the next one goes on
// with.
//
// It does not look into layers (layer does), keeps no images (image does) and makes none
// (build, who calls this package).
package oci
