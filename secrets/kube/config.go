package kube

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ownNamespace is the file in which kubelet tells a pod its namespace.
const ownNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// everywhere stands for all namespaces.
const everywhere = "*"

// Config is the settings of the source. Kubeconfig and Server exclude each other;
// without both, the pod's own service account is used.
type Config struct {
	Namespace  string   // of references without one, "" for the kubeconfig's, else the pod's, else "default"
	Namespaces []string // others that references may name, "*" for all
	Kubeconfig string   // absolute path
	Context    string   // of the kubeconfig, "" for its current one
	Server     string   // URL of the API server
	TokenFile  string   // absolute path; read again when it changes
	CAFile     string   // absolute path, "" for the system's authorities
	Selector   string   // of labels, in the syntax of Kubernetes: other Secrets count as absent; "" for all
}

// Parse reads the settings of a vault. It opens nothing. Its error names the
// field and what was expected.
func Parse(config map[string]any) (Config, error) {
	var c Config
	texts := map[string]*string{
		"namespace": &c.Namespace, "kubeconfig": &c.Kubeconfig, "context": &c.Context,
		"server": &c.Server, "token_file": &c.TokenFile, "ca_file": &c.CAFile, "label_selector": &c.Selector,
	}
	for name, v := range config {
		if v == nil {
			continue
		}
		if name == "namespaces" {
			list, err := names(v)
			if err != nil {
				return Config{}, err
			}
			c.Namespaces = list
			continue
		}
		at, known := texts[name]
		if !known {
			return Config{}, fmt.Errorf("config.%s: unknown field; expected namespace, namespaces, kubeconfig, context, server, token_file, ca_file or label_selector", name)
		}
		s, ok := v.(string)
		if !ok {
			return Config{}, fmt.Errorf("config.%s: it is no text; expected a text", name)
		}
		*at = s
	}
	return c, c.check()
}

func names(v any) ([]string, error) {
	bad := errors.New("config.namespaces: it is no list of names; expected names of namespaces, such as [shop, billing], or \"*\" for all")
	list, ok := v.([]any)
	if !ok {
		return nil, bad
	}
	var all []string
	for _, x := range list {
		s, ok := x.(string)
		if !ok || s != everywhere && !validName(s) {
			return nil, bad
		}
		all = append(all, s)
	}
	return all, nil
}

func (c Config) check() error {
	for _, f := range []struct{ name, path string }{{"kubeconfig", c.Kubeconfig}, {"token_file", c.TokenFile}, {"ca_file", c.CAFile}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			return fmt.Errorf("config.%s: it is relative; expected the absolute path of a file", f.name)
		}
	}
	if _, err := labels.Parse(c.Selector); err != nil {
		return fmt.Errorf("config.label_selector: %q: %w; expected a selector of labels such as team=shop,tier in (web, api)", c.Selector, err)
	}
	switch {
	case c.Namespace != "" && !validName(c.Namespace):
		return errors.New("config.namespace: it is no name of a namespace; expected lower-case letters, digits and -")
	case c.Kubeconfig != "" && c.Server != "":
		return errors.New("config.server: it stands beside kubeconfig; expected one of them")
	case c.Context != "" && c.Kubeconfig == "":
		return errors.New("config.context: it needs kubeconfig; give kubeconfig or leave context out")
	case c.Server == "" && (c.TokenFile != "" || c.CAFile != ""):
		return errors.New("config.server: it is missing; expected the API server's URL beside token_file and ca_file")
	case c.Server == "":
		return nil
	}
	u, err := url.Parse(c.Server)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || c.TokenFile != "") {
		return errors.New("config.server: it is no URL that a token may be sent to; expected https://host[:port] (http:// only without token_file)")
	}
	return nil
}

// connection answers how to reach the API server and the default namespace.
func (c Config) connection() (*rest.Config, string, error) {
	switch {
	case c.Server != "":
		rc := &rest.Config{Host: c.Server, BearerTokenFile: c.TokenFile}
		rc.CAFile = c.CAFile
		return rc, orElse(c.Namespace, podNamespace()), nil
	case c.Kubeconfig == "":
		rc, err := rest.InClusterConfig()
		if err != nil {
			return nil, "", fmt.Errorf("config.kubeconfig: it is missing and this is no pod with a service account (%w); expected the path of a kubeconfig file", err)
		}
		return rc, orElse(c.Namespace, podNamespace()), nil
	}
	load := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
	rc, err := load.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("config.kubeconfig: reading %s: %w; expected a kubeconfig file with the context %q", c.Kubeconfig, err, c.Context)
	}
	if rc.ExecProvider != nil || rc.AuthProvider != nil {
		return nil, "", fmt.Errorf("config.kubeconfig: the user in %s logs in by a program; expected a token, a token file or a client certificate", c.Kubeconfig)
	}
	if rc.Insecure {
		return nil, "", fmt.Errorf("config.kubeconfig: %s says insecure-skip-tls-verify; expected certificate-authority or certificate-authority-data", c.Kubeconfig)
	}
	namespace, _, err := load.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("config.kubeconfig: reading the namespace of %s: %w", c.Kubeconfig, err)
	}
	return rc, orElse(c.Namespace, namespace), nil
}

func podNamespace() string {
	b, err := os.ReadFile(ownNamespace)
	if err != nil {
		return "default"
	}
	return orElse(strings.TrimSpace(string(b)), "default")
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// validName says whether s can name a Secret or a namespace: labels of lower-case
// letters, digits and dashes with dots between them. Nothing else gets into a URL.
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// place takes a resource apart and says whether references may name it.
func place(resource, own string, others []string) (key, error) {
	namespace, name, two := strings.Cut(resource, "/")
	if !two {
		namespace, name = own, resource
	}
	if !validName(namespace) || !validName(name) {
		return key{}, fmt.Errorf("reading Secret %q: it is no name of a Secret; expected name or namespace/name", resource)
	}
	if namespace != own && !slices.Contains(others, namespace) && !slices.Contains(others, everywhere) {
		return key{}, fmt.Errorf("reading Secret %s: %w; add the namespace to config.namespaces of the vault", resource, errForeign)
	}
	return key{namespace, name}, nil
}
