import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Runs SQL in a Flink of its own, inside this process.
 *
 * <p>Reads {"settings": {…}, "statements": […], "queries": {name: SELECT}}; prints a line for each row of each query:
 * [name, "+I", [values]], where "-U" and "-D" take back a row that was printed before.
 */
public class Flink {
  private static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] none) throws Exception {
    JsonNode asked = JSON.readTree(System.in);
    Map<String, String> settings = JSON.convertValue(asked.get("settings"), Map.class);
    TableEnvironment flink =
        TableEnvironment.create(
            EnvironmentSettings.newInstance().withConfiguration(Configuration.fromMap(settings)).build());
    for (JsonNode statement : asked.get("statements")) {
      flink.executeSql(statement.textValue());
    }
    List<String> parts = new ArrayList<>();
    for (Map.Entry<String, JsonNode> query : asked.get("queries").properties()) {
      parts.add(asText(flink, query.getKey(), query.getValue().textValue()));
    }
    try (CloseableIterator<Row> rows = flink.executeSql(String.join(" UNION ALL ", parts)).collect()) {
      while (rows.hasNext()) {
        print(rows.next());
      }
    }
    System.out.flush();
  }

  /** A query whose rows are text, whatever they hold, so that all queries are one job that reads the topic once. */
  private static String asText(TableEnvironment flink, String name, String query) {
    Table table = flink.sqlQuery(query);
    String columns =
        table.getResolvedSchema().getColumnNames().stream()
            .map(column -> "`" + column + "`")
            .collect(Collectors.joining(", "));
    flink.createTemporaryView("asked_" + name, table);
    return "SELECT '" + name + "', JSON_ARRAY(" + columns + " NULL ON NULL) FROM `asked_" + name + "`";
  }

  private static void print(Row row) throws Exception {
    ArrayNode line = JSON.createArrayNode();
    line.add(row.getField(0).toString()).add(row.getKind().shortString());
    line.add(JSON.readTree(row.getField(1).toString()));
    System.out.write(JSON.writeValueAsBytes(line)); // UTF-8, whatever the locale
    System.out.write('\n');
  }
}
