package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
)

// explanation is what would become of a request, and why.
type explanation struct {
	Generation  uint64            `json:"generation"`
	Listener    string            `json:"listener,omitempty"` // of the document
	Certificate certificateChoice `json:"certificate"`
	Path        string            `json:"normalised_path"`
	Refused     string            `json:"refused,omitempty"`
	Route       string            `json:"route,omitempty"`
	Service     string            `json:"service,omitempty"`
	UpstreamURI string            `json:"upstream_path,omitempty"`
	Targets     []string          `json:"targets,omitempty"`
	Plugins     []pluginStep      `json:"plugins,omitempty"`
	Closed      string            `json:"closed,omitempty"`
	Shares      []shareOf         `json:"shares,omitempty"`  // of a route with x_keyway_split, in place of the five above
	Mirrors     []string          `json:"mirrors,omitempty"` // services that get copies
	Candidates  []candidate       `json:"candidates"`
	Consumer    string            `json:"consumer,omitempty"`
	Groups      []string          `json:"consumer_groups,omitempty"`
}

type certificateChoice struct {
	Name    string `json:"name,omitempty"`
	Pattern string `json:"pattern,omitempty"`
	Policy  string `json:"policy,omitempty"`
	Why     string `json:"why"`
	Refused string `json:"refused,omitempty"` // the newest version, by the check named
}

// shareOf is one service of a split, and what a request that falls on it meets.
type shareOf struct {
	Weight      int          `json:"weight"`
	Service     string       `json:"service,omitempty"` // "" for null: answered 500
	UpstreamURI string       `json:"upstream_path,omitempty"`
	Targets     []string     `json:"targets,omitempty"`
	Plugins     []pluginStep `json:"plugins,omitempty"`
	Closed      string       `json:"closed,omitempty"`
}

type pluginStep struct {
	Plugin string `json:"plugin"`
	ID     string `json:"id"`
	Scope  string `json:"scope"`
}

type candidate struct {
	Route   string   `json:"route"`
	Paths   []string `json:"paths,omitempty"`
	Matches bool     `json:"matches"`
	Reason  string   `json:"reason"`
}

// explain answers a question about a snapshot.
func explain(s *edge.Snapshot, config *edge.Config, q control.Question) (*explanation, error) {
	if s == nil {
		return nil, errors.New("the node has no configuration yet")
	}
	u, err := url.Parse(q.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is not an absolute http or https URL", q.URL)
	}
	var fields exchange.Fields
	for _, h := range q.Headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, fmt.Errorf("header %q is not Name: value", h)
		}
		fields.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	sni := q.SNI
	if _, err := netip.ParseAddr(u.Hostname()); sni == "" && err != nil {
		sni = u.Hostname()
	}
	port, err := portOf(u, q.Port)
	if err != nil {
		return nil, err
	}
	query := routing.Query{Method: cmp.Or(q.Method, "GET"), Scheme: u.Scheme, Host: u.Host, SNI: sni, Secure: u.Scheme == "https", Fields: &fields, RawQuery: u.RawQuery, Policy: config.Policy, Dst: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}
	raw := u.EscapedPath()
	if raw == "" {
		raw = "/"
	}
	e := &explanation{Generation: s.Generation, Candidates: []candidate{}}
	consumer, err := e.from(s, q.Consumer)
	if err != nil {
		return nil, err
	}
	var at *edge.Listen
	at, e.Listener = listenerAt(s, port, query.Secure)
	if query.Secure {
		e.Certificate = chooseCertificate(s, config, sni)
		e.Certificate.Policy = s.PolicyOf(sni, at).Name
	} else {
		e.Certificate.Why = "the request is in clear"
	}
	var m routing.Match
	found, refused := s.Table.Find(config.Policy, raw, &query, &m)
	e.Path = query.Path
	if refused != nil {
		e.Refused = "400: " + refused.Error()
		return e, nil
	}
	for _, c := range s.Table.Explain(&query) {
		e.Candidates = append(e.Candidates, candidate{nameOr(c.Route.Spec.Name, c.Route.Spec.ID), pathsOf(c), c.Matches, c.Reason})
	}
	if !found {
		e.Refused = "404: no route matched"
		return e, nil
	}
	e.routed(s, &m, config, query.Secure, raw, consumer)
	return e, nil
}

// from fills in who a request is from, and answers nil for nobody.
func (e *explanation) from(s *edge.Snapshot, name string) (*spec.Consumer, error) {
	if name == "" {
		return nil, nil
	}
	c := s.Directory.Consumer(name)
	if c == nil {
		return nil, fmt.Errorf("there is no consumer %q: expected the username or the id of one in the document", name)
	}
	e.Consumer = nameOr(c.Username, c.ID)
	for _, g := range s.Directory.ConsumerGroups(c.ID) {
		e.Groups = append(e.Groups, g.Name)
	}
	return c, nil
}

// pathsOf is how a rule is shown: its paths, or the expression that it is.
func pathsOf(c routing.Candidate) []string {
	if c.Expression != "" {
		return []string{c.Expression}
	}
	return c.Paths
}

func nameOr(name, id string) string {
	if name != "" {
		return name
	}
	return id
}

// routed fills in what the route found leads to.
func (e *explanation) routed(s *edge.Snapshot, m *routing.Match, config *edge.Config, secure bool, raw string, consumer *spec.Consumer) {
	to := s.Routed(m.Route)
	e.Route = nameOr(to.Route.Name, to.Route.ID)
	for _, one := range to.Route.Mirrors {
		e.Mirrors = append(e.Mirrors, fmt.Sprintf("%s (%d of %d)", serviceName(s, one.Service), one.Numerator, one.Denominator))
	}
	if len(to.Shares) > 0 {
		for _, one := range to.Shares {
			x := leadsWhere(s, m, config, &one.Routed, secure, raw, consumer)
			x.Weight = one.Weight
			e.Shares = append(e.Shares, x)
		}
		return
	}
	x := leadsWhere(s, m, config, &to, secure, raw, consumer)
	e.Service, e.UpstreamURI, e.Targets, e.Plugins, e.Closed = x.Service, x.UpstreamURI, x.Targets, x.Plugins, x.Closed
}

// leadsWhere says what a request of a route to one service meets.
func leadsWhere(s *edge.Snapshot, m *routing.Match, config *edge.Config, to *edge.Routed, secure bool, raw string, consumer *spec.Consumer) shareOf {
	var x shareOf
	path := ""
	if to.Service != nil {
		x.Service = nameOr(to.Service.Name, to.Service.ID)
		path = to.Service.Path
		for _, h := range s.Upstreams.Health() {
			if strings.EqualFold(h.Upstream, to.Service.Host) {
				at := h.Target
				if h.Address != "" && h.Address != h.Target {
					at += " at " + h.Address // one of those that the name has
				}
				x.Targets = append(x.Targets, fmt.Sprintf("%s weight %d %s", at, h.Weight, h.State))
			}
		}
		if len(x.Targets) == 0 {
			x.Targets = []string{fmt.Sprintf("%s:%d", to.Service.Host, to.Service.Port)}
		}
	}
	x.UpstreamURI = m.UpstreamPath(path, m.Route.Policy(config.Policy), raw)
	if to.Service.GRPC() {
		x.UpstreamURI = m.WholePath(m.Route.Policy(config.Policy), raw)
	}
	for _, step := range to.Chain.NamesFor(consumer, secure) {
		x.Plugins = append(x.Plugins, pluginStep{step.Plugin, step.ID, step.Scope})
	}
	if to.Closed != nil {
		x.Closed = to.Closed.Error()
	}
	return x
}

// serviceName is what a service is called in answers.
func serviceName(s *edge.Snapshot, id string) string {
	i := slices.IndexFunc(s.Document.Services, func(x *spec.Service) bool { return x.ID == id })
	if i < 0 {
		return id
	}
	return nameOr(s.Document.Services[i].Name, id)
}

// chooseCertificate says which certificate a handshake for a name shows.
func chooseCertificate(s *edge.Snapshot, config *edge.Config, sni string) certificateChoice {
	m := s.Certs.Find(sni)
	c := certificateChoice{Pattern: m.Pattern}
	if m.Slot != nil && m.Slot.Refused != nil {
		c.Refused = m.Slot.Refused.Error()
	} else {
		c.Refused = certificateProblem(s, m.Pattern)
	}
	switch {
	case m.Slot != nil && len(m.Slot.Active) > 0:
		c.Name = fmt.Sprintf("%s@%d", m.Slot.Name, m.Slot.Version)
		c.Why = whyCertificate(s.Certs.Explain(sni))
	case config.Development:
		c.Why = "no certificate is bound to the name: the development CA issues one for configured names"
	case m.Slot != nil || c.Refused != "":
		c.Why = "what is bound to the name has no version that may serve: the handshake ends with unrecognized_name"
	default:
		c.Why = "no certificate is bound to the name and there is no default: the handshake ends with unrecognized_name"
	}
	return c
}

// certificateProblem says why nothing new can be had of the certificate that is bound
// to a name: its secret is missing, or the rules of its vault refuse it.
func certificateProblem(s *edge.Snapshot, pattern string) string {
	i := slices.IndexFunc(s.Document.SNIs, func(n *spec.SNI) bool { return n.Name == pattern })
	if i < 0 {
		return ""
	}
	id := s.Document.SNIs[i].Certificate
	for _, p := range s.Problems {
		if p.Entity == "certificates" && p.ID == id {
			return p.Field + ": " + p.Message
		}
	}
	return ""
}

// whyCertificate says why the first of the bindings that match a name serves it.
func whyCertificate(claims []certs.Claim) string {
	if len(claims) == 0 {
		return "nothing else is bound to the name"
	}
	why := claims[0].Why
	if len(claims) > 1 {
		others := make([]string, 0, len(claims)-1)
		for _, x := range claims[1:] {
			others = append(others, cmp.Or(x.Pattern, "the default"))
		}
		why += ", before " + strings.Join(others, ", ")
	}
	return why
}

func (c *cli) explainCommand() *cobra.Command {
	q := control.Question{Method: "GET"}
	cmd := &cobra.Command{
		Use: "explain URL", Short: "Say which certificate, route, plugins and targets a request would meet, and why", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.URL = args[0]
			n, err := c.node()
			if err != nil {
				return err
			}
			var e explanation
			if err := n.Post(cmd.Context(), "explain", q, &e); err != nil {
				return err
			}
			return c.printExplanation(&e)
		},
	}
	cmd.Flags().StringVar(&q.Method, "method", q.Method, "request method")
	cmd.Flags().IntVar(&q.Port, "port", 0, "port that the request comes to (default the URL's)")
	cmd.Flags().StringVar(&q.SNI, "sni", "", "server name of the handshake (default the URL's host)")
	cmd.Flags().StringVar(&q.Consumer, "consumer", "", "username or id of the consumer that the request is from (default nobody)")
	cmd.Flags().StringArrayVar(&q.Headers, "header", nil, "request header, Name: value (repeatable)")
	c.settingFlags(cmd, "data_dir")
	return cmd
}

func (c *cli) printExplanation(e *explanation) error {
	if c.asJSON {
		return c.print(e, "", nil)
	}
	err := c.print(e, "WHAT ANSWER", func(add func(...string)) {
		if e.Listener != "" {
			add("listener", e.Listener)
		}
		add("certificate", orDash(e.Certificate.Name)+" ("+e.Certificate.Why+"; policy "+orDash(e.Certificate.Policy)+")")
		if e.Certificate.Refused != "" {
			add("newest version", "refused: "+e.Certificate.Refused)
		}
		add("path", e.Path)
		if e.Refused != "" {
			add("refused", e.Refused)
		}
		if e.Consumer != "" {
			add("consumer", e.Consumer+" (groups "+orDash(strings.Join(e.Groups, ", "))+")")
		}
		add("route", orDash(e.Route))
		shares := e.Shares
		if len(shares) == 0 {
			shares = []shareOf{{Service: e.Service, UpstreamURI: e.UpstreamURI, Targets: e.Targets, Plugins: e.Plugins, Closed: e.Closed}}
		}
		total := 0
		for _, x := range e.Shares {
			total += x.Weight
		}
		for _, x := range shares {
			service := orDash(x.Service)
			if len(e.Shares) > 0 {
				service = fmt.Sprintf("%s (%d of %d requests)", cmp.Or(x.Service, "none, answered 500"), x.Weight, total)
			}
			add("service", service)
			add("upstream path", orDash(x.UpstreamURI))
			add("targets", orDash(strings.Join(x.Targets, ", ")))
			for i, p := range x.Plugins {
				add(fmt.Sprintf("plugin %d", i+1), p.Plugin+" ("+p.Scope+")")
			}
			if x.Closed != "" {
				add("closed", "503: "+x.Closed)
			}
		}
		if len(e.Mirrors) > 0 {
			add("copies to", strings.Join(e.Mirrors, ", "))
		}
	})
	if err != nil || len(e.Candidates) == 0 {
		return err
	}
	fmt.Fprintln(c.out)
	return c.print(e, "CANDIDATE PATHS MATCHES WHY", func(add func(...string)) {
		for _, x := range e.Candidates {
			add(x.Route, orDash(strings.Join(x.Paths, " ")), fmt.Sprint(x.Matches), x.Reason)
		}
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
