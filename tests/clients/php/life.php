<?php
// The whole life of a task through the client that openapi-generator makes for PHP, on Guzzle.

declare(strict_types=1);

use Taskpact\Api\TasksApi;
use Taskpact\ApiException;
use Taskpact\Configuration;
use Taskpact\Model\Problem;
use Taskpact\Model\Task;
use Taskpact\Model\TaskCreate;
use Taskpact\Model\TaskPatch;
use Taskpact\Model\TaskReplace;

require 'GuzzleHttp/autoload.php';
spl_autoload_register(function (string $class): void {
    $path = __DIR__ . '/lib/' . str_replace(['Taskpact\\', '\\'], ['', '/'], $class) . '.php';
    if (is_file($path)) {
        require $path;
    }
});
set_error_handler(fn (int $kind, string $message, string $file, int $line) => throw new ErrorException($message, 0, $kind, $file, $line));

function check(bool $holds, mixed $what = null): void
{
    if (!$holds) {
        throw new Exception('failed: ' . print_r($what, true));
    }
}

function fails(int $status, ?string $name, callable $call): void
{
    try {
        $answer = $call();
    } catch (ApiException $error) {
        check($error->getCode() === $status, $error->getMessage());
        if ($name) {
            $problem = $error->getResponseObject();
            check($problem instanceof Problem && $problem->getType() === "tag:taskpact.example,2026:$name", $problem);
        }
        return;
    }
    check(false, $answer);
}

function connect(string $url, string $token): TasksApi
{
    $configuration = (new Configuration())->setHost($url)->setAccessToken($token);
    return new TasksApi(new GuzzleHttp\Client(), $configuration);
}

// Without this, it sends 0 and 1 for false and true.
Configuration::getDefaultConfiguration()->setBooleanFormatForQueryString(Configuration::BOOLEAN_FORMAT_STRING);

[, $url, $user, $token] = $argv;
$api = connect($url, $token);
$milk = new TaskCreate(['title' => 'Buy oat milk', 'description' => 'two litres']);

// Created once under its key, and read again only if it changed.
[$task, $status, $headers] = $api->createTaskWithHttpInfo($user, $milk, 'milk');
check($task instanceof Task && $status === 201 && $task->getDescription() === 'two litres', $task);
check(array_change_key_case($headers)['etag'] === ['"1"'], $headers);
check($api->createTask($user, $milk, 'milk') == $task);
fails(422, 'idempotency-key-reused', fn () => $api->createTask($user, new TaskCreate(['title' => 'Another']), 'milk'));
check($api->getTask($user, $task->getId()) == $task);
fails(304, null, fn () => $api->getTask($user, $task->getId(), '"1"'));

// Changed by the one who saw it last, and by nobody else.
$patched = $api->updateTask($user, $task->getId(), new TaskPatch(['description' => null]), '"1"');
check($patched->getDescription() === null, $patched);
$late = new TaskReplace(['title' => 'Late']);
fails(412, 'precondition-failed', fn () => $api->replaceTask($user, $task->getId(), $late, '"1"'));
$replaced = $api->replaceTask($user, $task->getId(), new TaskReplace(['title' => 'Buy milk']), '"2"');
check($replaced->getTitle() === 'Buy milk' && $replaced->getUpdatedAt() > $task->getUpdatedAt(), $replaced);
foreach ([true, false] as $completed) {
    check($api->toggleTaskCompletion($user, $task->getId())->getCompleted() === $completed);
}

// Listed page by page, newest first.
$bread = $api->createTask($user, new TaskCreate(['title' => 'Bake bread']));
$first = $api->listTasks($user, 1);
$last = $api->listTasks($user, 1, $first->getNextCursor(), false);
check([$first->getItems()[0]->getId(), $last->getItems()[0]->getId()] === [$bread->getId(), $task->getId()], $last);
check($last->getNextCursor() === null, $last);

// Deleted, and gone.
check($api->deleteTaskWithHttpInfo($user, $task->getId())[1] === 204);
fails(404, 'task-not-found', fn () => $api->getTask($user, $task->getId()));
fails(401, 'unauthenticated', fn () => connect($url, 'x.y.z')->getTask($user, $task->getId()));
