// Command certmanagerdev runs cert-manager's own controllers against an API server, for
// tests. Upstream's binary cannot be built from the module proxy: its main is a module
// of its own that is not published. What is left out of it here is what a test has no
// use for: the election of a leader, the webhook, the injector of authorities, and the
// issuers of CyberArk.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cert-manager/cert-manager/pkg/controller"
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmechallenges"
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmeorders"
	gateways "github.com/cert-manager/cert-manager/pkg/controller/certificate-shim/gateways"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificate-shim/ingresses"
	listenersets "github.com/cert-manager/cert-manager/pkg/controller/certificate-shim/listenerset"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/acme"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/vault"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/acme"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/vault"
	"github.com/cert-manager/cert-manager/pkg/util/feature"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "certmanagerdev:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	kubeconfig := flag.String("kubeconfig", "", "how the API server is reached")
	namespace := flag.String("cluster-resource-namespace", "cert-manager", "where Secrets of ClusterIssuers are")
	nameservers := flag.String("nameservers", "", "a comma list of host:port that self-checks ask")
	backoff := flag.Duration("backoff", time.Hour, "the first pause after an issuance that failed")
	recheck := flag.Duration("recheck", time.Second, "the pause between two self-checks of a challenge")
	gateway := flag.Bool("gateway-api", false, "serve Gateways too; their definitions must be there")
	sets := flag.Bool("listener-sets", false, "with -gateway-api, serve ListenerSets too: opens the feature gate of that name")
	flag.Parse()

	if err := feature.DefaultMutableFeatureGate.Set(fmt.Sprintf("ListenerSets=%v", *sets)); err != nil {
		return fmt.Errorf("setting the feature gate of ListenerSets: %w", err)
	}
	var dns []string
	if *nameservers != "" {
		dns = strings.Split(*nameservers, ",")
	}
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig:       *kubeconfig,
		KubernetesAPIQPS: 50, KubernetesAPIBurst: 100,
		IssuerOptions: controller.IssuerOptions{ClusterResourceNamespace: *namespace},
		ACMEOptions: controller.ACMEOptions{
			HTTP01SolverImage: "acmesolver", ACMEHTTP01SolverRunAsNonRoot: true, HTTP01SolverNameservers: dns, DNS01Nameservers: dns, DNS01CheckRetryPeriod: *recheck,
			HTTP01SolverResourceRequestCPU: resource.MustParse("10m"), HTTP01SolverResourceRequestMemory: resource.MustParse("64Mi"),
			HTTP01SolverResourceLimitsCPU: resource.MustParse("100m"), HTTP01SolverResourceLimitsMemory: resource.MustParse("64Mi"),
		},
		IngressShimOptions: controller.IngressShimOptions{DefaultIssuerKind: "Issuer", DefaultIssuerGroup: "cert-manager.io", DefaultAutoCertificateAnnotations: []string{"kubernetes.io/tls-acme"}},
		CertificateOptions: controller.CertificateOptions{CertificateRequestMinimumBackoffDuration: *backoff, CertificateRequestMaximumBackoffDuration: 32 * *backoff},
		SchedulerOptions:   controller.SchedulerOptions{MaxConcurrentChallenges: 60},
		ConfigOptions:      controller.ConfigOptions{EnableGatewayAPI: *gateway, EnableGatewayAPIListenerSet: *sets},
	})
	if err != nil {
		return fmt.Errorf("making the controllers' context: %w", err)
	}
	shared, err := factory.Build()
	if err != nil {
		return fmt.Errorf("building the controllers' context: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	ended := make(chan error, len(controller.Known()))
	for name, construct := range controller.Known() {
		if name == gateways.ControllerName && !*gateway || name == listenersets.ControllerName && !(*gateway && *sets) {
			continue
		}
		c, err := construct(factory)
		if err != nil {
			return fmt.Errorf("making the controller %s: %w", name, err)
		}
		all.Go(func() {
			if err := c.Run(5, ctx); err != nil && ctx.Err() == nil {
				ended <- fmt.Errorf("the controller %s: %w", name, err)
			}
		})
	}
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	shared.HTTP01ResourceMetadataInformersFactory.Start(ctx.Done())
	if *gateway {
		shared.GWShared.Start(ctx.Done())
	}
	fmt.Println("certmanagerdev: running")
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}
