// Package kube is the source of Kubernetes Secrets.
//
// {vault://kube/name/key} is one key of a Secret of the configured namespace,
// {vault://kube/namespace/name/key} of another one that the setting "namespaces"
// allows. A Secret is one resource: its keys come from the same version of it,
// always together. A key whose value is not UTF-8 text is an error when it is
// asked for; the other keys of its Secret are not touched by it.
//
// While Run works, each Secret that was asked for is watched, and answered from
// what its watch brought last. Where a watch is not allowed, or is not up, each
// Fetch asks the API server. A Secret that nobody asks for is forgotten, so
// that memory does not grow with those that exist.
//
// client-go reads kubeconfig files and the pod's own account and adds tokens to
// requests. The two requests that are needed are made here.
package kube
