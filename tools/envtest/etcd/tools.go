//go:build tools

// Package tools keeps the command that envtest builds in go.mod.
package tools

import _ "go.etcd.io/etcd/server/v3"
