// Package docker is the driver for hosts that have a Docker engine and nothing better: a
// machine is a Linux container of that engine, with the guest agent as its first process.
//
// The root file system of the image becomes an image of the engine once per digest. The machine's
// own writes are the container's writable layer: the container stays when the machine stops, and
// goes with Driver.Remove. Three streams of the engine's interface carry everything, so that
// nothing depends on the engine seeing our sockets (Docker Desktop's engine does not): attach
// hands the agent its configuration, brings the console, and ends the guest when this process
// ends; one exec per connection is the channel; wait tells of the end.
//
// Volumes are volumes of the engine, made and deleted with ours; their data cannot go to another
// backend. What is copied in at a start is unpacked on the host and mounted read-only; a secret that
// is one file has no name on the host any more once the machine runs. The mounts of a container stay
// as they were made: a machine with other volumes is refused.
//
// It is not a virtual machine and says so: guest and host share a kernel. It has its own small
// client for the calls that it needs (https://docs.docker.com/reference/api/engine/version/v1.41/)
// and takes nothing from an image's own container settings. The supervisor and the engine call it
// through package driver; cmd/mvmctl puts it into the binary.
package docker
