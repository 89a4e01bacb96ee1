// Open Policy Agent as an external authorizer of Envoy (envoy.service.auth.v3.Authorization).
//
// Usage: opa ADDRESS POLICY.rego
//
// The policy's document data.envoy.authz.allow decides: a boolean, or an object with allowed, headers, http_status and
// body. Its input is Envoy's CheckRequest as JSON, with the parts of the path in parsed_path. The plug-in of Open Policy
// Agent for Envoy has the same contract. What a policy does not define is refused.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"os"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	kind "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/open-policy-agent/opa/v1/rego"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

type decision struct {
	Allowed bool              `json:"allowed"`
	Headers map[string]string `json:"headers"`
	Status  int32             `json:"http_status"`
	Body    string            `json:"body"`
}

type authorizer struct {
	auth.UnimplementedAuthorizationServer
	query rego.PreparedEvalQuery
}

func (a *authorizer) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	input, err := inputOf(request)
	if err != nil {
		return nil, err
	}
	found, err := a.query.Eval(ctx, rego.EvalInput(input))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return answer(decision{}), nil
	}
	return answer(decisionOf(found[0].Expressions[0].Value)), nil
}

func inputOf(request *auth.CheckRequest) (map[string]any, error) {
	text, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	var input map[string]any
	if err := json.Unmarshal(text, &input); err != nil {
		return nil, err
	}
	path, _, _ := strings.Cut(request.GetAttributes().GetRequest().GetHttp().GetPath(), "?")
	input["parsed_path"] = strings.Split(strings.Trim(path, "/"), "/")
	return input, nil
}

func decisionOf(value any) decision {
	if allowed, ok := value.(bool); ok {
		return decision{Allowed: allowed}
	}
	var found decision
	text, err := json.Marshal(value)
	if err != nil || json.Unmarshal(text, &found) != nil {
		return decision{}
	}
	return found
}

func answer(found decision) *auth.CheckResponse {
	var headers []*core.HeaderValueOption
	for name, value := range found.Headers {
		headers = append(headers, &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}})
	}
	if found.Allowed {
		granted := &auth.OkHttpResponse{Headers: headers}
		return &auth.CheckResponse{
			Status:       &status.Status{Code: int32(codes.OK)},
			HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: granted},
		}
	}
	refused := &auth.DeniedHttpResponse{Headers: headers, Body: found.Body}
	if found.Status != 0 {
		refused.Status = &kind.HttpStatus{Code: kind.StatusCode(found.Status)}
	}
	return &auth.CheckResponse{
		Status:       &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: refused},
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: opa ADDRESS POLICY.rego")
	}
	load := rego.Load([]string{os.Args[2]}, nil)
	query, err := rego.New(rego.Query("data.envoy.authz.allow"), load).PrepareForEval(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, &authorizer{query: query})
	log.Printf("serving %s", listener.Addr())
	log.Fatal(server.Serve(listener))
}
