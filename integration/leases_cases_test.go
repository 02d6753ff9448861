package integration

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLeasesWhenANodeEnds is case S-22 with a real Vault and PostgreSQL: an orderly end
// leaves a lease to its time, or gives it back where that was asked for, after the last
// request has used it; and a node that was killed leaves no user beyond the lease's.
func TestLeasesWhenANodeEnds(t *testing.T) {
	const life = 8 * time.Second
	p, v := startPostgres(t), startVault(t)
	v.database(p, "8s", "60s")
	token := v.policy("node", `path "database/creds/app" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }`, "1h")
	up := &basic{p: p, users: map[string]string{}}
	held, came := make(chan struct{}), make(chan struct{})
	o := tattle(t, func(r *http.Request) (int, string) {
		if r.URL.Path == "/slow" {
			close(came)
			<-held
		}
		return up.check(r)
	})
	node := func(revoke string) *gateway {
		t.Helper()
		return start(t, options{env: map[string]string{"CASE_TOKEN": token, "KEYWAY_REVOKE_AT_STOP": revoke}, document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: hcv, prefix: db, config: {address: %q, token: "{vault://env/CASE_TOKEN}", engine: generic}}]
services: [{name: data, url: "http://%s", routes: [{paths: [/], strip_path: false}], x_keyway_upstream_auth: {type: basic, username: "{vault://db/database/creds/app/username}", password: "{vault://db/database/creds/app/password}"}}]
`, v.addr, o.addr)})
	}
	used := func(g *gateway) {
		t.Helper()
		poll(t, "a request uses the lease", 20*time.Second, func() bool {
			resp, err := http.Get("http://" + g.proxy + "/")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
		if n := len(p.users()); n != 1 || v.leases("database/creds/app") != 1 {
			t.Fatalf("%d users and %d leases while one node runs", n, v.leases("database/creds/app"))
		}
	}
	gone := func(what string, limit time.Duration) {
		t.Helper()
		began := time.Now()
		poll(t, what+": no user is left", limit, func() bool { return len(p.users()) == 0 && v.leases("database/creds/app") == 0 })
		t.Logf("%s: no user after %s", what, time.Since(began).Round(100*time.Millisecond))
	}

	g := node("off")
	used(g)
	if code := g.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if len(p.users()) != 1 || v.leases("database/creds/app") != 1 {
		t.Error("the lease was given back, which nobody asked for")
	}
	gone("left to its time", life+30*time.Second) // Vault looks at its leases now and then

	g = node("on")
	used(g)
	answer := make(chan int, 1)
	go func() {
		resp, err := http.Get("http://" + g.proxy + "/slow")
		if err != nil {
			answer <- 0
			return
		}
		_ = resp.Body.Close()
		answer <- resp.StatusCode
	}()
	<-came
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if len(p.users()) != 1 {
		t.Error("the user was dropped while a request used it")
	}
	close(held)
	if code := <-answer; code != http.StatusOK {
		t.Errorf("the last request was answered %d", code)
	}
	<-g.done
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if users, leases := p.users(), v.leases("database/creds/app"); len(users) > 0 || leases > 0 {
		t.Errorf("with revoke_at_stop users %v and %d leases are left", users, leases)
	}
	if told := g.said("audit", "query", "--kind", "source", "--event", "revoked"); !strings.Contains(told, "db") {
		t.Errorf("the ledger does not tell that a lease was given back:\n%s", told)
	}
	if strings.Contains(g.log.String(), `"level":"ERROR"`) {
		t.Error("an orderly end has errors")
	}

	g = node("on")
	used(g)
	g.stop(syscall.SIGKILL)
	gone("killed", life+30*time.Second)
}
