package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/provide/file"
	"github.com/keyway-edge/keyway/routing/spec"
)

// quiet ends the program with a status and prints nothing more.
func quiet(status int) error { return &exitError{status, fmt.Errorf("")} }

func (c *cli) validateCommand() *cobra.Command {
	strict := false
	cmd := &cobra.Command{
		Use: "validate FILE...", Short: "Check documents and list every problem, the routes that no request reaches, names that nothing verifies, and lists that are left out", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := c.settings()
			if err != nil {
				return err
			}
			problems, warnings, err := validate(args, s)
			if err != nil {
				return err
			}
			if strict {
				problems, warnings = append(problems, warnings...), nil
			}
			if err := c.verdict(args, problems, warnings); err != nil {
				return err
			}
			if len(problems) > 0 {
				return quiet(exitFailed)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "take warnings for problems")
	return cmd
}

// verdict prints what validate has found.
func (c *cli) verdict(files []string, problems, warnings spec.Problems) error {
	if c.asJSON {
		listed := func(list spec.Problems) []telemetry.Problem {
			told := make([]telemetry.Problem, 0, len(list))
			for _, p := range list {
				told = append(told, telemetry.ProblemOf(p))
			}
			return told
		}
		return c.print(map[string]any{"valid": len(problems) == 0, "problems": listed(problems), "warnings": listed(warnings)}, "", nil)
	}
	for _, p := range warnings {
		fmt.Fprintln(c.out, "warning: "+p.Error())
	}
	for _, p := range problems {
		fmt.Fprintln(c.out, p.Error())
	}
	if len(problems) > 0 {
		fmt.Fprintf(c.out, "%d problems\n", len(problems))
	} else {
		fmt.Fprintf(c.out, "%s: valid\n", strings.Join(files, ", "))
	}
	return nil
}

// validate loads documents and compiles what can be compiled without a node.
func validate(paths []string, set *settings) (problems, warnings spec.Problems, err error) {
	sources, err := file.Read(paths)
	if err != nil {
		return nil, nil, err
	}
	doc, problems := spec.Load(sources, schemas())
	if len(problems) == 0 {
		problems = doc.CheckFlavor(set.RouterFlavor)
	}
	if len(problems) > 0 {
		return problems, nil, nil
	}
	table, problems := routing.Compile(nil, doc)
	_, unserved := edge.PlanListeners(doc, set.fixed())
	problems = append(problems, unserved...)
	warnings = append(doc.Ignored(), unverified(doc, set.UpstreamVerify)...)
	for _, s := range table.Shadowed() {
		r := s.Route.Spec
		how := "no request reaches it: route " + strconv.Quote(nameOr(s.By.Spec.Name, s.By.Spec.ID)) + " is considered first and matches everything that this one matches"
		if s.Same {
			how = "no request reaches it: route " + strconv.Quote(nameOr(s.By.Spec.Name, s.By.Spec.ID)) + " says the same and is considered first"
		}
		warnings = append(warnings, &spec.Problem{Pos: r.Pos, Entity: "routes", ID: r.ID, Name: r.Name, Reason: spec.ReasonDuplicate, Message: how + "; remove one of them, or make this one more specific"})
	}
	return problems, warnings, nil
}

// unverified are the services that say what certificates of their targets have to be for
// and verify none. verify is what holds where a service does not say.
func unverified(doc *spec.Document, verify bool) (warnings spec.Problems) {
	for _, s := range doc.Services {
		how := "while 'tls_verify' is false; set it to true, or remove these names"
		on := s.TLSVerify != nil && *s.TLSVerify
		if s.TLSVerify == nil {
			how, on = "while the setting upstream_tls_verify is off and the service has no 'tls_verify'; set that to true, or remove these names", verify
		}
		if !on && !s.TLSSANs.Empty() {
			warnings = append(warnings, &spec.Problem{Pos: s.Pos, Entity: "services", ID: s.ID, Name: s.Name, Field: "tls_sans", Reason: spec.ReasonConflict, Message: "no certificate is verified " + how})
		}
	}
	return warnings
}

// node makes a client of the running node.
func (c *cli) node() (*control.Client, error) {
	s, err := c.settings()
	if err != nil {
		return nil, err
	}
	return control.Dial(s.DataDir), nil
}

func (c *cli) reloadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "reload", Short: "Make the running node read its documents and credentials again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := c.node()
			if err != nil {
				return err
			}
			var answer struct {
				Problems []string `json:"problems"`
				Serves   bool     `json:"serves"`
			}
			if err := n.Post(cmd.Context(), "reload", nil, &answer); err != nil {
				return err
			}
			if c.asJSON {
				return c.print(answer, "", nil)
			}
			for _, p := range answer.Problems {
				fmt.Fprintln(c.out, p)
			}
			if len(answer.Problems) > 0 {
				fmt.Fprintln(c.out, "nothing was changed: what served before keeps serving")
				return quiet(exitFailed)
			}
			if !answer.Serves {
				fmt.Fprintln(c.out, "read; it serves when its secrets are there: what served before keeps serving until then")
				return nil
			}
			fmt.Fprintln(c.out, "reloaded")
			return nil
		},
	}
	c.settingFlags(cmd, "data_dir")
	return cmd
}

func (c *cli) certsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "certs", Short: "Show the certificates of the running node, roll them back, revoke them"}
	fetch := func(cmd *cobra.Command) ([]certFacts, error) {
		n, err := c.node()
		if err != nil {
			return nil, err
		}
		var all []certFacts
		return all, n.Get(cmd.Context(), "certificates", &all)
	}
	list := &cobra.Command{
		Use: "list", Short: "List every certificate with its state", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := fetch(cmd)
			if err != nil {
				return err
			}
			return c.listCerts(all)
		},
	}
	show := &cobra.Command{
		Use: "show NAME", Short: "Show one certificate whole: names, chain, history, refusal", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := fetch(cmd)
			if err != nil {
				return err
			}
			for _, f := range all {
				if f.Name == args[0] || f.ID == args[0] || contains(f.Names, args[0]) {
					return c.showCert(f)
				}
			}
			return fmt.Errorf("no certificate is called %q; `keyway certs list` shows all", args[0])
		},
	}
	c.settingFlags(list, "data_dir")
	c.settingFlags(show, "data_dir")
	cmd.AddCommand(list, show)
	cmd.AddCommand(c.certsActions()...)
	cmd.AddCommand(c.certsChecks()...)
	return cmd
}

// listCerts prints certificates, a line for each pair, and why some have none.
func (c *cli) listCerts(all []certFacts) error {
	head, owned := "NAME VERSION STATE KEY NOT-AFTER LEFT SOURCE", slices.ContainsFunc(all, func(f certFacts) bool { return f.Owner != nil })
	if owned {
		head += " CERT-MANAGER"
	}
	told := slices.ContainsFunc(all, func(f certFacts) bool { return len(f.Bundles) == 0 || f.Owner.reason() != "" })
	if told {
		head += " REASON"
	}
	return c.print(all, head, func(add func(...string)) {
		row := func(f *certFacts, reason string, cells ...string) {
			if owned {
				cells = append(cells, f.Owner.state())
			}
			if told {
				cells = append(cells, orDash(cmp.Or(reason, f.Owner.reason())))
			}
			add(cells...)
		}
		for _, f := range all {
			for _, b := range f.Bundles {
				row(&f, "", f.Name, fmt.Sprint(f.Version), f.State, b.KeyType, b.NotAfter.Format(time.RFC3339), left(b.NotAfter), f.Source)
			}
			if len(f.Bundles) == 0 {
				row(&f, cmp.Or(f.Refused, f.Reason), f.Name, "-", f.State, "-", "-", "-", f.Source)
			}
		}
	})
}

// versionName is name@n, "" for a version that never served.
func versionName(name string, v certVersion) string {
	if v.Version == 0 {
		return ""
	}
	return fmt.Sprintf("%s@%d", name, v.Version)
}

func (c *cli) showCert(f certFacts) error {
	return c.print(f, "FIELD VALUE", func(add func(...string)) {
		add("name", f.Name)
		add("id", f.ID)
		add("state", f.State)
		add("version", numbered(f.Version))
		add("source", f.Source)
		add("bound to", strings.Join(f.Names, ", "))
		if f.Reason != "" {
			add("reason", f.Reason)
		} else {
			add("since", f.Since.Format(time.RFC3339))
		}
		for _, b := range f.Bundles {
			add(b.KeyType+" names", strings.Join(b.Names, ", "))
			add(b.KeyType+" serial", b.Serial)
			add(b.KeyType+" issuer", b.Issuer)
			add(b.KeyType+" valid", b.NotBefore.Format(time.RFC3339)+" to "+b.NotAfter.Format(time.RFC3339)+" ("+left(b.NotAfter)+" left)")
			add(b.KeyType+" sha256", b.Fingerprint)
		}
		for _, w := range f.Warnings {
			add("warning", w)
		}
		if f.Refused != "" {
			add("refused", f.Refused)
		}
		f.Owner.show(add)
		for _, v := range f.History {
			if v.Version != f.Version {
				add("history", strings.Join(strings.Fields(v.State+" "+versionName(f.Name, v)+" since "+v.Since.Format(time.RFC3339)+" "+v.Reason), " "))
			}
		}
	})
}

// left renders the time until t in days or hours.
func left(t time.Time) string {
	d := time.Until(t)
	switch {
	case d < 0:
		return "expired"
	case d > 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d < 2*time.Minute:
		return d.Truncate(time.Second).String()
	}
	return d.Truncate(time.Minute).String()
}
