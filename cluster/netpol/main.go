// A NetworkPolicy engine for one node: kube-router's firewall controller without the router that its command adds.
package main

import (
	"context"
	"flag"
	"net/http"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloudnativelabs/kube-router/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/pkg/options"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

func main() {
	config := options.NewKubeRouterConfig()
	config.IPTablesSyncPeriod = time.Minute
	flag.StringVar(&config.Kubeconfig, "kubeconfig", "", "how to reach the API server")
	flag.StringVar(&config.HostnameOverride, "hostname-override", "", "the name of this node")
	flag.StringVar(&config.ClusterIPCIDR, "service-cluster-ip-range", "", "the network of Services")
	healthz := flag.String("healthz-bind-address", "", "where /healthz answers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, config, *healthz); err != nil {
		klog.Exit(err)
	}
}

func run(ctx context.Context, config *options.KubeRouterConfig, healthz string) error {
	access, err := clientcmd.BuildConfigFromFlags("", config.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return err
	}
	// Each change of a pod has all rules written again, and simulated pods on other nodes have no packets to filter.
	here := func(list *metav1.ListOptions) { list.FieldSelector = "spec.nodeName=" + config.HostnameOverride }
	ours := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(here))
	pods := ours.Core().V1().Pods().Informer()
	factory := informers.NewSharedInformerFactory(client, 0)
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	ours.Start(ctx.Done())
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced, policies.HasSynced, namespaces.HasSynced) {
		return ctx.Err()
	}
	controller, err := whenRegistered(ctx, client, config, pods, policies, namespaces)
	if err != nil {
		return err
	}
	if _, err := pods.AddEventHandler(controller.PodEventHandler); err != nil {
		return err
	}
	if _, err := policies.AddEventHandler(controller.NetworkPolicyEventHandler); err != nil {
		return err
	}
	if _, err := namespaces.AddEventHandler(controller.NamespaceEventHandler); err != nil {
		return err
	}
	beats := make(chan *healthcheck.ControllerHeartbeat, 1)
	serveHealth(healthz, beats, 3*config.IPTablesSyncPeriod)
	var running sync.WaitGroup
	running.Add(1)
	controller.Run(beats, ctx.Done(), &running)
	running.Wait()
	return nil
}

// whenRegistered makes the controller as soon as the kubelet has told the node's address, which it asks for.
func whenRegistered(
	ctx context.Context, client kubernetes.Interface, config *options.KubeRouterConfig,
	pods, policies, namespaces cache.SharedIndexInformer,
) (*netpol.NetworkPolicyController, error) {
	var made *netpol.NetworkPolicyController
	err := wait.PollUntilContextCancel(ctx, 500*time.Millisecond, true, func(context.Context) (bool, error) {
		var why error
		made, why = netpol.NewNetworkPolicyController(client, config, pods, policies, namespaces, &sync.Mutex{})
		if why != nil {
			klog.Infof("waiting for the node: %v", why)
		}
		return why == nil, nil
	})
	return made, err
}

// serveHealth answers 200 while the last heartbeat, which each pass over the rules begins with, is younger than `most`.
func serveHealth(address string, beats <-chan *healthcheck.ControllerHeartbeat, most time.Duration) {
	var last atomic.Pointer[healthcheck.ControllerHeartbeat]
	go func() {
		for beat := range beats {
			last.Store(beat)
		}
	}()
	http.HandleFunc("/healthz", func(answer http.ResponseWriter, _ *http.Request) {
		if beat := last.Load(); beat == nil || time.Since(beat.LastHeartBeat) > most {
			http.Error(answer, "no pass over the rules of late", http.StatusServiceUnavailable)
		}
	})
	go func() { klog.Exit(http.ListenAndServe(address, nil)) }()
}
