// The whole life of a task through the client that openapi-generator makes for Go.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"taskpact"
)

func check(holds bool, what any) {
	if !holds {
		panic(fmt.Sprint(what))
	}
}

func fails(response *http.Response, err error, status int, name string) {
	check(response != nil && response.StatusCode == status, fmt.Sprint(status, " was expected: ", err))
	var failure *taskpact.GenericOpenAPIError
	check(errors.As(err, &failure), err)
	if name != "" {
		problem, isProblem := failure.Model().(taskpact.Problem)
		check(isProblem && problem.Type == "tag:taskpact.example,2026:"+name, problem)
	}
}

func connect(url, token string) *taskpact.TasksAPIService {
	configuration := taskpact.NewConfiguration()
	configuration.Servers = taskpact.ServerConfigurations{{URL: url}}
	configuration.AddDefaultHeader("Authorization", "Bearer "+token)
	return taskpact.NewAPIClient(configuration).TasksAPI
}

func main() {
	url, user, token := os.Args[1], os.Args[2], os.Args[3]
	api, ctx := connect(url, token), context.Background()
	milk := *taskpact.NewTaskCreate("Buy oat milk")
	milk.SetDescription("two litres")

	// Created once under its key, and read again only if it changed.
	task, response, err := api.CreateTask(ctx, user).TaskCreate(milk).IdempotencyKey("milk").Execute()
	check(err == nil && response.StatusCode == 201 && task.GetDescription() == "two litres", err)
	check(response.Header.Get("ETag") == `"1"`, response.Header)
	same, _, err := api.CreateTask(ctx, user).TaskCreate(milk).IdempotencyKey("milk").Execute()
	check(err == nil && same.Id == task.Id, err)
	another := *taskpact.NewTaskCreate("Another")
	_, response, err = api.CreateTask(ctx, user).TaskCreate(another).IdempotencyKey("milk").Execute()
	fails(response, err, 422, "idempotency-key-reused")
	_, response, err = api.GetTask(ctx, user, task.Id).IfNoneMatch(`"1"`).Execute()
	fails(response, err, 304, "")

	// Changed by the one who saw it last, and by nobody else.
	patch := *taskpact.NewTaskPatch()
	patch.SetDescriptionNil()
	patched, _, err := api.UpdateTask(ctx, user, task.Id).TaskPatch(patch).IfMatch(`"1"`).Execute()
	check(err == nil && patched.Description.IsSet() && patched.Description.Get() == nil, err)
	late := *taskpact.NewTaskReplace("Late")
	_, response, err = api.ReplaceTask(ctx, user, task.Id).TaskReplace(late).IfMatch(`"1"`).Execute()
	fails(response, err, 412, "precondition-failed")
	replacement := *taskpact.NewTaskReplace("Buy milk")
	replaced, _, err := api.ReplaceTask(ctx, user, task.Id).TaskReplace(replacement).IfMatch(`"2"`).Execute()
	check(err == nil && replaced.Title == "Buy milk" && replaced.UpdatedAt.After(task.UpdatedAt), err)
	for _, completed := range []bool{true, false} {
		toggled, _, err := api.ToggleTaskCompletion(ctx, user, task.Id).Execute()
		check(err == nil && toggled.Completed == completed, err)
	}

	// Listed page by page, newest first.
	bread, _, err := api.CreateTask(ctx, user).TaskCreate(*taskpact.NewTaskCreate("Bake bread")).Execute()
	check(err == nil, err)
	first, _, err := api.ListTasks(ctx, user).Limit(1).Execute()
	check(err == nil && first.Items[0].Id == bread.Id, err)
	last, _, err := api.ListTasks(ctx, user).Limit(1).Cursor(first.GetNextCursor()).Completed(false).Execute()
	check(err == nil && last.Items[0].Id == task.Id && last.NextCursor.Get() == nil, err)

	// Deleted, and gone.
	response, err = api.DeleteTask(ctx, user, task.Id).Execute()
	check(err == nil && response.StatusCode == 204, err)
	_, response, err = api.GetTask(ctx, user, task.Id).Execute()
	fails(response, err, 404, "task-not-found")
	_, response, err = connect(url, "x.y.z").GetTask(ctx, user, task.Id).Execute()
	fails(response, err, 401, "unauthenticated")
}
